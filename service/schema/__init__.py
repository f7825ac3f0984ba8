"""The API's requests and responses as msgspec structs, and the table of parameters."""
