"""Tests of worker/embedding."""
