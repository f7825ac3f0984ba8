"""Several processes that compute one model: rank 0 decides, and the others do the same."""
