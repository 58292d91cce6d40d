"""Parts that tuned profilers share: the run folder, loading and training a language model, metrics, quality."""
