"""What computes a model: encoders, decoders of mlx-lm, and what follows the states of tokens."""
