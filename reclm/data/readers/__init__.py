"""Readers of raw files, one a format."""
