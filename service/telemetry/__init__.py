"""OpenTelemetry: metrics, spans, and where they are exported."""
