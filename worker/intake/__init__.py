"""Intake: messages from the pipe to prepared requests, off the device thread."""
