"""What all dialects of generation share: a request submitted, its answer collected or streamed."""
