"""The shapes of Responses: its request, parameters, queries, items, tools and events."""
