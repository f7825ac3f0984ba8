"""Configuration: the settings, their sources, the configured models and the API keys."""
