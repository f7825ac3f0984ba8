"""Training of the built-in model: corpus, tokenizer, training, evaluation. Not packaged."""
