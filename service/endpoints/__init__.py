"""One file an endpoint: from its request to the worker's, and from events to its answer."""
