"""Tests: each package of the product has its mirror here."""
