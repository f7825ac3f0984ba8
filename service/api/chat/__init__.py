"""OpenAI's `/v1/chat/completions` on top of the generation endpoint."""
