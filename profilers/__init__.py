"""Profilers, one a folder (plug-ins of the group ``reclm.profilers``), and the parts that tuned ones share."""
