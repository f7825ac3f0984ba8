"""OpenAI's `/v1/responses`: items in, items out, on top of what all dialects share."""
