"""Profiles brought into a recommender: the dual MLP, and ``augment`` for foreign models."""
