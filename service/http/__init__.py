"""HTTP: connections, bodies, and errors on the wire."""
