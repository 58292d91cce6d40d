"""The RecLM profiler."""
