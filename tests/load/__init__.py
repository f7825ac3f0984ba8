"""Load scripts: clients in a process of their own against any OpenAI-compatible URL."""
