"""Measures of how profiles read, while they are trained for the ranking: counted in the texts alone.

A word stands between spaces, as Flesch counts it; words are compared without case and the punctuation around them. A
sentence ends with ``.``, ``!`` or ``?`` before a space, or with its line.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache, partial

import numpy as np
import pyphen

_AROUND = re.compile(r"^[\W_]+|[\W_]+$")
# quotes, brackets and emphasis may close behind the full stop
_SENTENCE_END = re.compile(r"""(?<=[.!?])["'”’)\]*_]*\s+|\n+""")
_TEXT_END = re.compile(r"""[.!?]["'”’)\]*_]*\s*\Z""")


def interpretability(
    profiles: Sequence[str], sources: Sequence[str], finished: Sequence[bool]
) -> dict[str, float]:
    """Return means over ``n`` profiles, without those that a measure does not apply to (nan if to none).

    ``sources`` are the texts of the items that each was written from; ``finished`` says whether each ended by itself,
    not at the limit of tokens. ``distinct_2`` is the share of different ones among the word pairs of all profiles (Li
    et al. 2016, https://arxiv.org/abs/1510.03055).
    """
    words = [_words(text) for text in profiles]
    pairs = [pair for of_profile in words for pair in _ngrams(of_profile, 2)]
    return {
        "copying": _mean(copying(profiles, sources)),
        "readability": _mean(readability(profiles)),
        "compliance": _mean(compliance(profiles, finished)),
        "words": _mean(np.array([len(of_profile) for of_profile in words])),
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else float("nan"),
    }


def copying(profiles: Sequence[str], sources: Sequence[str], n: int = 3) -> np.ndarray:
    """Return the share of each profile's word n-grams that occur in its own source, ``(n_texts,)`` float64.

    An n-gram counts as often as the profile has it; those over the end of a sentence count, too. nan for a profile of
    fewer than ``n`` words.

    >>> copying(["A fan of the Dark Knight"], ["Title: The Dark Knight. A fan favourite."])
    array([0.25])
    """
    shares = np.full(len(profiles), np.nan)
    for row, (profile, source) in enumerate(zip(profiles, sources, strict=True)):
        grams = list(_ngrams(_words(profile), n))
        if grams:
            copied = set(_ngrams(_words(source), n))
            shares[row] = sum(gram in copied for gram in grams) / len(grams)
    return shares


def readability(profiles: Sequence[str]) -> np.ndarray:
    """Return the Flesch reading ease of each profile, ``(n_texts,)`` float64; nan without a word.

    ``206.835 − 1.015 · words / sentences − 84.6 · syllables / words``: 60 to 70 is plain English, less is harder.
    Syllables are the parts into which pyphen's American English patterns hyphenate a word, somewhat fewer than are
    spoken ("movie" is one).

    Paper: R. Flesch, A new readability yardstick, Journal of Applied Psychology 32(3), 1948.
    """
    ease = np.full(len(profiles), np.nan)
    for row, profile in enumerate(profiles):
        words = _words(profile)
        if words:
            sentences, syllables = len(_sentences(profile)), sum(map(_syllables, words))
            ease[row] = 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)
    return ease


def compliance(profiles: Sequence[str], finished: Sequence[bool]) -> np.ndarray:
    """Return which profiles are in order, ``(n_texts,)`` bool.

    Such a profile ended by itself (``finished``), has a word, ends a sentence with ``.``, ``!`` or ``?``,
    repeats no sentence, and no four words in a row more than once.
    """
    return np.array([ended and _in_order(text) for text, ended in zip(profiles, finished, strict=True)], bool)


def repetition(texts: Sequence[str], n: int = 3) -> np.ndarray:
    """Return the share of each text's word n-grams that it had before, ``(n_texts,)`` float64; 0 without any.

    >>> repetition(["Action, drama and action, drama and comedy"])
    array([0.2])
    """
    grams = [list(_ngrams(_words(text), n)) for text in texts]
    return np.array([1 - len(set(of_text)) / len(of_text) if of_text else 0.0 for of_text in grams])


def _in_order(text: str) -> bool:
    sentences, repeats = _sentences(text), Counter(_ngrams(_words(text), 4)).values()
    ends = bool(sentences) and _TEXT_END.search(text) is not None
    return ends and len(set(sentences)) == len(sentences) and max(repeats, default=0) <= 2


# profiles are looked at by several measures, and two profiles of a prompt have one source
@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_tokens(text))


@lru_cache(maxsize=1024)
def _sentences(text: str) -> list[str]:
    """Return the words of each sentence that has any, joined by spaces."""
    return [words for part in _SENTENCE_END.split(text) if (words := " ".join(_tokens(part)))]


def _tokens(text: str) -> Iterator[str]:
    return filter(None, map(_bare, text.split()))


@lru_cache(maxsize=200_000)
def _bare(token: str) -> str:
    return _AROUND.sub("", token.casefold())


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[first:] for first in range(n)), strict=False)


_hyphenation = cache(partial(pyphen.Pyphen, lang="en_US"))


@lru_cache(maxsize=100_000)
def _syllables(word: str) -> int:
    return len(_hyphenation().positions(word)) + 1


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
