"""OpenTelemetry: the metrics, the spans, and where they go."""
