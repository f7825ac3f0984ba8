"""The check of a model at its load: what its rows may share and still get the same tokens."""
