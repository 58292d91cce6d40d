"""Measure how far simple recommenders get on a data set, and say whether profiles could help."""

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from reclm.config import Config
from reclm.console import Description, progress_bar
from reclm.data.dataset import Dataset
from reclm.intervals import mean, number, percent
from reclm.recommend.evaluate import check_tested, evaluate, test_tasks, validation_task
from reclm.recommend.fit import fit
from reclm.recommend.metrics import title

METRIC = "ndcg@20"
VALIDATION = "validation"
SIMPLE = {"random": "random order", "popularity": "popularity", "ease": "EASE", "textknn": "nearest texts"}
"""The backbones that are tried, with what a table calls them."""
LITTLE = 0.1
"""A gain below this share of the baseline tells nearly nothing."""
SOME = 0.1
"""Share of a protocol's test interactions from which known items, or new ones, are looked at."""

Measured = Mapping[tuple[str, str], np.ndarray]
"""Recommender and part to the users' values ``(n,)``: equal ones of all recommenders of a part, in the same order."""


class DataCheck(Config):
    """How far simple recommenders get on a data set, and what follows for profiles: :meth:`reclm.Dataset.check`."""

    dataset: str
    metric: str = METRIC
    reach: dict[str, dict[str, float]]
    """``validation`` or a protocol, and recommender, to the mean of the metric."""
    histories: str
    """A sentence on the users that are tested, and on what is known of them."""
    findings: tuple[str, ...]
    """A sentence for each thing found."""
    hopes: dict[str, bool] = Field(default_factory=dict)
    """Protocol to whether histories or texts tell anything of it."""
    answer: str
    """Whether profiles could help, in a sentence or two."""

    @property
    def description(self) -> Description:
        """Return what is shown of it."""
        names = dict.fromkeys(name for values in self.reach.values() for name in values)
        rows = [(name, *(self._number(part, name) for part in self.reach)) for name in names]
        tables = {"how far simple recommenders get": [(title(self.metric), *self.reach), *rows]}
        return Description(self.dataset, tables, lines=(self.histories, *self.findings, self.answer))

    def _number(self, part: str, name: str) -> str:
        return number(self.reach[part][name]) if name in self.reach[part] else ""

    def __str__(self) -> str:
        return str(self.description)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.description._repr_html_()


def check(data: Dataset, progress: bool = True) -> DataCheck:
    """Measure :data:`SIMPLE` on validation and each protocol; their options are chosen on validation.

    Raises:
        NotFound: if the data set has no test part.
    """
    check_tested(data)
    tasks = {VALIDATION: validation_task(data)} if len(data.valid) else {}
    tasks |= test_tasks(data)
    found: dict[tuple[str, str], np.ndarray] = {}
    names = [name for name in SIMPLE if name != "textknn" or data.has_item_text]
    with progress_bar(f"checking {data.name}", len(names), progress) as advance:
        for name in names:
            advance(0, f"checking {data.name}: {SIMPLE[name]}")
            scorer = fit(name, data, progress=False).model.scorer()
            for part, task in tasks.items():
                found[SIMPLE[name], part] = evaluate(scorer, task, [METRIC]).values[METRIC]
            advance(1)
    return judged(data, found)


def judged(data: Dataset, found: Measured, metric: str = METRIC) -> DataCheck:
    """Say what values of :data:`SIMPLE` tell of a data set; without EASE's and popularity's, nothing can be said.

    A recommender *tells* something of a part if its users' values are above those of the baseline, popularity for items
    with training and a random order for new ones, by the 95 % interval and by a tenth of it or more.
    """
    tasks = test_tasks(data)
    trained = np.bincount(data.train.user_idx, minlength=data.n_users)
    tested = trained[np.unique(np.concatenate([task.users.numpy() for task in tasks.values()]))]
    findings, hopes = list[str](), dict[str, bool]()
    for part, task in tasks.items():
        warm = float(np.isin(task.candidates[task.truth.indices].numpy(), data.train.item_idx).mean())
        ways = [_known] * (warm >= SOME) + [_new] * (1 - warm >= SOME)
        told = [way(part, found) for way in ways]
        findings += [sentence for sentence, _ in told]
        hopes[part] = any(tells for _, tells in told)
    reach: dict[str, dict[str, float]] = {}
    for (name, part), values in found.items():
        reach.setdefault(part, {}).update({name: _mean(values)} if np.isfinite(values).any() else {})
    return DataCheck(
        dataset=data.name,
        metric=metric,
        reach=reach,
        histories=_histories(data, tested),
        findings=tuple(findings),
        hopes=hopes,
        answer=_answer(hopes),
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else float("nan")


def _histories(data: Dataset, tested: np.ndarray) -> str:
    """Say how much the training part holds of the users tested, ``(n,)`` interactions of each."""
    few = percent(float((tested <= 1).mean()), sign=False)
    pairs = data.n_users * data.n_items / len(data.train)
    return (
        f"{len(tested):,} users are tested; the median one has a history of {np.median(tested):g}, and {few} have one "
        f"of 1 or none. One of {pairs:,.0f} pairs of a user and an item is in the training part."
    )


def _gain(found: Measured, name: str, base: str, part: str) -> tuple[bool, str]:
    """Return whether ``name`` tells more of a part than ``base`` does, and how far each gets."""
    values, before = found[name, part], found[base, part]
    known = ~np.isnan(values) & ~np.isnan(before)
    gain = mean(values[known] - before[known])
    least = LITTLE * float(before[known].mean()) if gain else 0.0
    tells = gain is not None and gain.low is not None and gain.low > 0 and gain.mean >= least
    reached = (f"{one} {number(_mean(found[one, part]))}" for one in (name, base))
    return tells, " against ".join(reached)


def _known(part: str, found: Measured) -> tuple[str, bool]:
    """Say what histories tell of a protocol of items with training, and whether they tell anything."""
    tells, reached = _gain(found, "EASE", "popularity", part)
    if tells:
        return f"{part}: what users did before tells what they do in the test part ({reached}).", True
    sentence = (
        f"{part}: what users did before tells nearly nothing of what they do in the test part ({reached})"
    )
    before = _gain(found, "EASE", "popularity", VALIDATION) if ("EASE", VALIDATION) in found else None
    if before and before[0]:
        sentence += (
            f"; of the validation part it does ({before[1]}): the two parts differ, and what is chosen on validation "
            "need not hold on the test"
        )
    return f"{sentence}.", False


def _new(part: str, found: Measured) -> tuple[str, bool]:
    """Say what texts tell of a protocol of new items, and whether they tell anything."""
    if ("nearest texts", part) not in found:
        return (
            f"{part}: new items have no text here, so that nothing is known of them but what profiles add.",
            True,
        )
    tells, reached = _gain(found, "nearest texts", "random order", part)
    much = "tell who wants" if tells else "tell nearly nothing of who wants"
    return f"{part}: the texts of new items {much} them ({reached}).", tells


def _answer(hopes: Mapping[str, bool]) -> str:
    """Return whether profiles could help."""
    could, hardly = ([part for part, hope in hopes.items() if hope is wanted] for wanted in (True, False))
    sentences = []
    if could:
        sentences.append(
            f"Profiles could help in {' and '.join(could)}, if they say more than history and text do: "
            "reclm bench --augment measures it."
        )
    if hardly:
        sentences.append(
            f"In {' and '.join(hardly)} no profile can help much: it is written of the same histories and texts."
        )
    return " ".join(sentences)
