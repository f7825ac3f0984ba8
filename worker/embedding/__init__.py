"""Models that give vectors and relevance scores: what their folders say, and their computation."""
