"""Profiles: planned, written, stored, embedded and exchanged; the base of profilers."""
