"""What is around each step: the time of its device call, its memory, and what is sent of it."""
