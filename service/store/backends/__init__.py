"""Where the rows of the store are kept: in memory, or in a file."""
