"""Chat completions: OpenAI's `/v1/chat/completions` over the generation endpoint."""
