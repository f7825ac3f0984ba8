"""How the built-in model was made: corpus, training and evaluation. Not packaged."""
