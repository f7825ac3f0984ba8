"""What may come next in an answer, guessed on the host: drafts that the model verifies."""
