"""Endpoints for operators: health, status, metrics, models, administration, the page."""
