"""mlx-lm's batches and their scheduler, with our rows: the only importer of `mlx_lm.generate`."""
