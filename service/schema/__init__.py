"""OpenAI's shapes as msgspec structs: what is read, what is answered, and nothing that acts."""
