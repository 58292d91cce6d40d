"""Profiles without a language model, from the terms that distinguish a history (TF-IDF)."""

from reclm.profilers.keywords.profiler import Keywords, KeywordsConfig

__all__ = ["Keywords", "KeywordsConfig"]
