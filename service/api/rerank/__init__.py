"""The order of documents by their relevance to a query."""
