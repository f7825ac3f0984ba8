"""What the service and the worker can say to each other: data only."""
