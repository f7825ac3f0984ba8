"""Memory: the budget, what is reserved of it, the memory in use, and what KV costs."""
