"""Memory: the budget, what is reserved of it, and the memory in use."""
