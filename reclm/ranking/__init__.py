"""Metrics and the all-rank evaluator."""
