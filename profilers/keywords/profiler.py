"""Profiles without a language model: the control that every profile by a language model must beat."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field
from scipy import sparse
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from reclm.config import Config
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import BadInput
from reclm.llm.chat import plain
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.text.item_text import item_texts

_BLOCK = 4096
_PUNCTUATION = re.compile(r"[^\w\s'’-]+|\s['’-]+|['’-]+(?:\s|$)")
_WORD = re.compile(r"[^\W\d][\w'’-]+")


class KeywordsConfig(Config):
    """The terms of a profile."""

    terms: int = Field(default=8, ge=1)
    """Terms in a profile."""
    longest: int = Field(default=2, ge=1, le=3)
    """Most words in a term."""
    min_items: int = Field(default=2, ge=1)
    """Items that a term occurs in at least, where there are that many; rarer terms are left out."""
    stop_words: Literal["english"] | None = "english"
    """Words that are no terms."""
    history: int | None = Field(default=None, ge=1)
    """Newest items of a user that count; all by default."""


class Keywords(Profiler):
    """Write a user's profile from the terms whose mean TF-IDF weight in the history exceeds the average most.

    The average is over all training interactions: a genre that everybody watches distinguishes nobody.
    """

    needs_model: ClassVar[bool] = False
    Config = KeywordsConfig
    config: KeywordsConfig

    def fit(self, view: TrainingView) -> Self:
        """Weigh the terms of all items; raise a BadInput if no item has any text."""
        texts = [plain(text) for text in item_texts(view.item_text, view.text_template)]
        described = sum(bool(text) for text in texts)
        vectorizer = TfidfVectorizer(
            analyzer=self._split,  # pyright: ignore[reportArgumentType]
            min_df=min(self.config.min_items, max(1, described // 2)),
            sublinear_tf=True,
            dtype=np.float32,  # pyright: ignore[reportArgumentType]
        )
        try:
            self._weights = sparse.csr_array(vectorizer.fit_transform(texts))
        except ValueError as error:
            raise BadInput(
                f"data set {view.name!r}: the item text has no terms for keyword profiles", where=view.name
            ) from error
        self._terms = vectorizer.get_feature_names_out()
        clicks = np.bincount(view.train.item_idx, minlength=len(view.items)).astype(np.float32)
        self._average = np.asarray(clicks / max(1, clicks.sum()) @ self._weights)
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the finished profile of each row of ``idx``; rows without any terms are left out."""
        for start in range(0, len(idx), _BLOCK):
            rows = idx[start : start + _BLOCK]
            weights = sparse.csr_array(self._shares(view, kind, rows) @ self._weights)
            for row, subject in enumerate(view.idmap(kind).ids(rows)):
                entries = slice(*weights.indptr[row : row + 2])
                columns = weights.indices[entries]
                if terms := self._best(columns, weights.data[entries] - self._average[columns]):
                    text = ", ".join(terms) + "."
                    key = hashlib.sha256(f"keywords {text}".encode()).hexdigest()[:32]
                    yield Subject(kind, subject, key, text)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """Yield the profiles in the order of the subjects."""
        for subject in subjects:
            assert isinstance(subject.source, str)
            yield Profile(subject.kind, subject.id, subject.source, subject.prompt_hash, model="keywords")

    def _split(self, text: str) -> list[str]:
        """Return the terms of a text: words and runs of words with no stop word or punctuation in between."""
        stop = ENGLISH_STOP_WORDS if self.config.stop_words == "english" else frozenset()
        terms = []
        for part in _PUNCTUATION.split(text.lower().replace("_", " ")):
            words = [word if _WORD.fullmatch(word) and word not in stop else "" for word in part.split()]
            for length in range(1, self.config.longest + 1):
                runs = [words[at : at + length] for at in range(len(words) - length + 1)]
                terms += [" ".join(run) for run in runs if all(run)]
        return terms

    def _shares(self, view: TrainingView, kind: ProfileKind, rows: np.ndarray) -> sparse.csr_array:
        """Return ``(rows, items)``, the share of each item in a row's history; of an item, itself."""
        columns = [np.array([row]) for row in rows]
        if kind == "user":
            history = self.config.history
            newest = slice(-history, None) if history else slice(None)
            columns = [view.train.item_idx[view.history("user", int(row))[newest]] for row in rows]
        lengths = np.fromiter(map(len, columns), np.int64, len(columns))
        shares = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        flat = np.concatenate([np.empty(0, np.int64), *columns])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return sparse.csr_array((shares, flat, indptr), (len(rows), len(view.items)))

    def _best(self, terms: np.ndarray, weights: np.ndarray) -> list[str]:
        """Return the terms of greatest excess; a term within a chosen one is not chosen again."""
        order = np.lexsort((terms, -weights))
        chosen: list[str] = []
        for term in self._terms[terms[order[: 4 * self.config.terms]]]:
            if not any(f" {term} " in f" {other} " or f" {other} " in f" {term} " for other in chosen):
                chosen.append(str(term))
            if len(chosen) == self.config.terms:
                break
        return chosen
