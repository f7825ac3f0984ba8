"""The messages between the service and the worker, as plain data, and the channel they use."""
