"""The shapes of Responses: its request with its table of parameters, items, tools and events."""
