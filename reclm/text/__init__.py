"""Texts of items, and the encoder that turns texts into vectors."""
