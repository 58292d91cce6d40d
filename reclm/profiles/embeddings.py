"""The names of version 0.1 for :mod:`reclm.profiles.matrix`."""

from reclm.profiles.matrix import profile_matrix
from reclm.profiles.matrix import vector_table as update

__all__ = ["embed", "update"]


def embed(store, encoder, kind, idmap, progress=True):
    """``profile_matrix``, as a pair."""
    matrix = profile_matrix(store, encoder, kind, idmap, progress)
    return matrix.vectors, matrix.present
