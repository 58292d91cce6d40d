"""Trained backbones in use: kept on disk, and asked for users and items that they were, or were not, trained on."""
