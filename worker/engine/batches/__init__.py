"""How rows form batches: which decode or prefill together, and whose model fails in one."""
