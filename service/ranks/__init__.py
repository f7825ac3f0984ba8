"""The processes that compute one worker's models together: those of the ranks beside rank 0."""
