"""Keys and values in 8 or 4 bits: as arrays, as caches, and which layers of a model have them."""
