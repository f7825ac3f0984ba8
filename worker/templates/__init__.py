"""What a chat template takes, and conversations in the form that it takes."""
