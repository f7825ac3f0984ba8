"""The prompt cache: KV kept between requests, and what KV costs."""
