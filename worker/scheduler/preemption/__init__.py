"""Which running requests yield to others: for shares, and for memory."""
