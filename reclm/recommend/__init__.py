"""Recommenders: their base, training, evaluation, serving and steering."""
