"""The prompt cache: KV kept between requests."""
