"""What a tuned profiler's rankings are worth, and what its profiles are like, on sessions that nothing learned from."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from reclm.console import progress_bar
from reclm.intervals import Estimate, mean
from reclm.profilers.langptune.evaluation import at_random, most_popular, ranked
from reclm.profilers.langptune.readability import interpretability
from reclm.profilers.langptune.recommender import TextRecommender
from reclm.profilers.langptune.writer import SessionWriter, Written
from reclm.recommend.evaluate import PerUser

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import Tuning


_TOP = 10
_CHUNK = 64
"""Profiles that are kept together."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What came out for the test sessions.

    Attributes:
        rows: ``(n,)`` the sessions.
        rankings: by name, per session; the last one is that of what was tuned.
        top: ``(n, 10)`` item_idx that what was tuned ranks best.
        profiles: what was written for them; None where σ reads histories.
        texts: how profiles read; see :func:`~reclm.profilers.langptune.readability.interpretability`.
        truncated: share of the user texts that the encoder cuts.
    """

    rows: np.ndarray
    rankings: dict[str, PerUser]
    top: np.ndarray
    profiles: Written | None
    texts: dict[str, float]
    truncated: float


class Measurement:
    """Measures a tuning, and keeps what took long in its folder.

    Args:
        tuning: finished.
    """

    def __init__(self, tuning: "Tuning") -> None:
        self.tuning = tuning

    def run(self, controls: bool = False) -> Measured:
        """Rank the candidates of the test sessions: by chance, by popularity, by the histories' own text, and tuned.

        Args:
            controls: rank by what could stand in the place of the written profiles, too; see :meth:`_controls`.
        """
        tuning, sessions = self.tuning, self.tuning.sessions
        rows = sessions.rows("test")[: tuning.config.measured or None]
        items = len(tuning.view.items)
        first = tuning.recommender(tuning.first_encoder)
        # where σ was not trained, the items are embedded once
        last = tuning.recommender() if tuning.tuned.encoder else first
        written = None if tuning.config.source == "history" else self.profiles(rows)
        told = written.texts if written else tuning.histories.texts(rows.tolist())
        scores = {
            "Random": at_random(sessions, rows, tuning.config.seed),
            "MostPopular": most_popular(sessions, rows, items),
            "history, untrained": first.scores(tuning.histories.texts(rows.tolist()), sessions.history[rows]),
            self.name: last.scores(told, sessions.history[rows]),
        }
        best = scores[self.name].topk(min(_TOP, len(sessions.items))).indices.numpy()
        if controls and written:
            scores |= self._controls(last, told, sessions.history[rows])
        measured = Measured(
            rows,
            {name: ranked(one, sessions, rows, items) for name, one in scores.items()},
            sessions.items[best],
            written,
            interpretability(written.texts, tuning.histories.sources(rows.tolist()), written.ended)
            if written
            else {},
            last.encoder.truncated(told),
        )
        self._save(measured)
        return measured

    @property
    def name(self) -> str:
        """What was tuned, as the paper calls it."""
        config = self.tuning.config
        if config.source == "history":
            return "EMB-CL" if config.variant == "cl" else "EMB-0"
        return {"full": "LangPTune", "cl": "LangPTune-CL", "rlso": "LangPTune-RLSO", "zero": "LangPTune-0"}[
            config.variant
        ]

    def _controls(
        self, recommender: TextRecommender, told: list[str], histories: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """Scores by the same profiles given to the wrong users, by the mean of the history's items, by chance vectors.

        They are named like :data:`reclm.benchmarks.controls.CONTROLS`. Keywords are none of them: that profiler
        reads whole histories, in which the items stand that are to be found.
        """
        rng = np.random.default_rng(self.tuning.config.seed)
        order, wrong = rng.permutation(len(told)), np.empty(len(told), np.int64)
        wrong[order] = np.roll(order, 1)
        items = torch.cat([recommender.items, torch.zeros(1, recommender.items.shape[1])])
        means = items[torch.from_numpy(recommender.place[histories])].mean(1)
        noise = torch.from_numpy(rng.standard_normal(means.shape, np.float32))
        normalize = torch.nn.functional.normalize
        return {
            "shuffled": recommender.scores([told[row] for row in wrong], histories),
            "random": recommender.scores_of(normalize(noise, dim=1), histories),
            "text": recommender.scores_of(normalize(means, dim=1), histories),
        }

    def profiles(self, rows: np.ndarray) -> Written:
        """Profiles of sessions as the tuned model writes them, stored when they are done."""
        tuning = self.tuning
        generator, params = tuning.tuned.generator(tuning.model), tuning.config.writing
        kept = tuning.kept(tuning.folder / "measured", generator.model, params)
        if missing := kept.missing(rows.tolist()):
            writer = SessionWriter(tuning.histories, tuning.prompts, generator.load())  # pyright: ignore[reportArgumentType]
            with progress_bar("profiles of test sessions", len(missing), tuning.progress) as advance:
                for start in range(0, len(missing), _CHUNK):  # what is kept outlives a kill
                    some = missing[start : start + _CHUNK]
                    kept.add(some, writer.profiles(some, params, advance))
        return kept.get(rows.tolist())

    def _save(self, measured: Measured) -> None:
        """``measured/sessions.parquet`` (metrics of every session) and ``measured/results.json``."""
        tuning = self.tuning
        folder = tuning.folder / "measured"
        folder.mkdir(parents=True, exist_ok=True)
        users = tuning.view.users.array.take(pa.array(tuning.sessions.users[measured.rows]))
        table = pa.concat_tables(
            pa.table({"method": pa.array([name] * len(users)), "user_id": users, **one.values})
            for name, one in measured.rankings.items()
        )
        pq.write_table(table, folder / "sessions.parquet")
        results = {
            "sessions": len(measured.rows),
            "candidates": len(tuning.sessions.items),
            "rankings": {
                name: {metric: _told(mean(values)) for metric, values in one.values.items()}
                for name, one in measured.rankings.items()
            },
            "profiles": {name: one if np.isfinite(one) else None for name, one in measured.texts.items()},
            "truncated": measured.truncated,
        }
        (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def _told(one: Estimate | None) -> dict[str, Any] | None:
    return one and vars(one)
