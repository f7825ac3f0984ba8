"""The record of each request, and its log line."""
