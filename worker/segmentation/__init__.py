"""An answer's text, split into content, reasoning and calls."""
