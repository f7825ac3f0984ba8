"""The engine: one batched device step of one model."""
