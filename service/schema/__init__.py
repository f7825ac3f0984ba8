"""OpenAI's shapes as msgspec structs, and the table of parameters."""
