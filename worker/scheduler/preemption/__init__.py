"""Which requests yield to others: for shares, for memory, and prompts for answers."""
