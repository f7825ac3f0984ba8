"""Access control: API keys, rate limits, and the hosts and origins that are allowed."""
