"""How good profiles are, as far as it can be counted: format, repetition, and whether they are about their history."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reclm.profilers.profile_format import fault, repeats, stems
from reclm.text.encoder import TextEncoder

_FORMAT = {"user", "ident", "inter"}


@dataclass(frozen=True)
class ProfileQuality:
    """Shares of ``profiles``, each between 0 and 1, but for ``faults``.

    Attributes:
        profiles: how many there are, ``n``.
        in_format: are in the profile format.
        empty: say nothing.
        repeated: say the same phrase twice.
        named: have a word with their own history in common.
        closer: are closer to their own history than to the median of the others'; 1 without an encoder.
        good: in format, not empty, nothing repeated, and about their history: ``named`` or ``closer`` both.
        distinct: distinct texts over distinct histories.
        faults: how often which fault of format occurs.
    """

    profiles: int
    in_format: float
    empty: float
    repeated: float
    named: float
    closer: float
    good: float
    distinct: float
    faults: dict[str, int]


def profiles_quality(
    texts: Sequence[str],
    histories: Sequence[str],
    encoder: TextEncoder | None = None,
    phrases: int | None = 3,
) -> ProfileQuality:
    """Measure profiles against the histories they were made from. Cost grows with ``n²``: take a sample.

    Args:
        texts: the profiles, ``n``.
        histories: the text of each one's items, ``n``.
        encoder: compares profiles with histories by cosine; without one only words are compared.
        phrases: how many identities and interests a profile in format has; None for any number.
    """
    if len(texts) != len(histories):
        raise ValueError(f"{len(texts)} profiles for {len(histories)} histories")
    if not texts:
        return ProfileQuality(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, {})
    faults = [fault(text, phrases) for text in texts]
    in_format = np.array([one is None for one in faults])
    empty = np.array([not text.strip() for text in texts])
    repeated = np.array([repeats(text) for text in texts])
    named = np.array(
        [bool((stems(one) & stems(own)) - _FORMAT) for one, own in zip(texts, histories, strict=True)]
    )
    closer = _closer(texts, histories, encoder) if encoder else np.ones(len(texts), bool)
    good = in_format & ~empty & ~repeated & named & closer
    return ProfileQuality(
        profiles=len(texts),
        in_format=float(in_format.mean()),
        empty=float(empty.mean()),
        repeated=float(repeated.mean()),
        named=float(named.mean()),
        closer=float(closer.mean()),
        good=float(good.mean()),
        distinct=len(set(texts)) / len(set(histories)),
        faults=dict(Counter(one for one in faults if one).most_common()),
    )


def _closer(texts: Sequence[str], histories: Sequence[str], encoder: TextEncoder) -> np.ndarray:
    one, other = unit(encoder.encode(texts)), unit(encoder.encode(histories))
    cosine = one @ other.T
    return cosine.diagonal() > np.median(cosine, axis=1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """``(n, t)``: each row scaled to length 1; a row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
