"""What a model's folder says besides its weights: how it is sampled, prompted and ended."""
