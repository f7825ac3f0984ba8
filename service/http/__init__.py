"""HTTP: request bodies, and errors on the wire."""
