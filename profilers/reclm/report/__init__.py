"""What a run of the RecLM profiler did: profile quality by stage, training curves, the model card."""
