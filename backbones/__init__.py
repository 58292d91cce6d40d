"""Recommenders, one a file; plug-ins of the group ``reclm.backbones``."""
