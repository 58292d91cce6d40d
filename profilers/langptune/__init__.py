"""LangPTune: profiles trained end to end for the ranking they produce (arXiv 2410.18870)."""
