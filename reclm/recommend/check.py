"""Measure how far simple recommenders get on a data set, and say whether profiles could help."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from reclm.console import progress_bar
from reclm.data.dataset import Dataset
from reclm.intervals import mean, number, percent
from reclm.recommend.evaluate import PerUser, check_tested, evaluate, test_tasks, validation_task
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


@dataclass(frozen=True, repr=False)
class DataCheck:
    """How far simple recommenders get on a data set, and what follows for profiles: :meth:`reclm.Dataset.check`.

    Attributes:
        dataset: its name.
        reach: recommender and part (``validation`` or a protocol) to the mean NDCG@20.
        findings: a sentence for each thing found.
        hopes: protocol to whether histories or texts tell anything of it.
        answer: whether profiles could help, in a sentence or two.
    """

    dataset: str
    reach: Mapping[tuple[str, str], float]
    findings: tuple[str, ...]
    hopes: Mapping[str, bool]
    answer: str

    @property
    def parts(self) -> list[str]:
        """The parts that were measured."""
        return list(dict.fromkeys(part for _, part in self.reach))

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the cells of the table, the head first."""
        yield (title(METRIC), *self.parts)
        for name in dict.fromkeys(name for name, _ in self.reach):
            values = (self.reach.get((name, part)) for part in self.parts)
            yield (name, *("" if value is None else number(value) for value in values))

    def __str__(self) -> str:
        rows = list(self.rows())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([*table, "", *self.findings, "", self.answer])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = self.rows()
        cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        names = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        text = "".join(f"<p>{escape(line)}</p>" for line in (*self.findings, self.answer))
        return f"<table><tr>{names}</tr>{cells}</table>{text}"


def check(data: Dataset, progress: bool = True) -> DataCheck:
    """Measure :data:`SIMPLE` on validation and each protocol; their options are chosen on validation.

    A recommender *tells* something of a part if its users' NDCG@20 is above that of the baseline, popularity for items
    with training and a random order for new ones, by the 95 % interval and by a tenth of it or more.

    Raises:
        NotFound: if the data set has no test part.
    """
    check_tested(data)
    tasks = {VALIDATION: validation_task(data)} if len(data.valid) else {}
    tasks |= test_tasks(data)
    found: dict[tuple[str, str], PerUser] = {}
    names = [name for name in SIMPLE if name != "textknn" or data.has_item_text]
    with progress_bar(f"checking {data.name}", len(names), progress) as advance:
        for name in names:
            advance(0, f"checking {data.name}: {SIMPLE[name]}")
            scorer = fit(name, data, progress=False).model.scorer()
            found |= {(SIMPLE[name], part): evaluate(scorer, task, [METRIC]) for part, task in tasks.items()}
            advance(1)
    protocols = [part for part in tasks if part != VALIDATION]
    trained = np.bincount(data.train.user_idx, minlength=data.n_users)
    tested = trained[np.unique(np.concatenate([tasks[part].users.numpy() for part in protocols]))]
    findings, hopes = [_histories(data, tested)], dict[str, bool]()
    for part in protocols:
        task = tasks[part]
        warm = float(np.isin(task.candidates[task.truth.indices].numpy(), data.train.item_idx).mean())
        ways = [_known] * (warm >= SOME) + [_new] * (1 - warm >= SOME)
        said = [way(part, found) for way in ways]
        findings += [sentence for sentence, _ in said]
        hopes[part] = any(tells for _, tells in said)
    reach = {key: value.mean()[METRIC] for key, value in found.items()}
    return DataCheck(data.name, reach, tuple(findings), hopes, _answer(hopes))


def _histories(data: Dataset, tested: np.ndarray) -> str:
    """Say how much the training part holds of the users tested, ``(n,)`` interactions of each."""
    few = percent(float((tested <= 1).mean()), sign=False)
    pairs = data.n_users * data.n_items / len(data.train)
    return (
        f"{len(tested):,} users are tested; the median one has a history of {np.median(tested):g}, and {few} have one "
        f"of 1 or none. One of {pairs:,.0f} pairs of a user and an item is in the training part."
    )


def _gain(found: Mapping[tuple[str, str], PerUser], name: str, base: str, part: str) -> tuple[bool, str]:
    """Return whether ``name`` tells more of a part than ``base`` does, and how far each gets."""
    values, before = (found[key, part].values[METRIC] for key in (name, base))
    known = ~np.isnan(values) & ~np.isnan(before)
    gain = mean(values[known] - before[known])
    least = LITTLE * float(before[known].mean()) if gain else 0.0
    tells = gain is not None and gain.low is not None and gain.low > 0 and gain.mean >= least
    reached = (f"{one} {number(found[one, part].mean()[METRIC])}" for one in (name, base))
    return tells, " against ".join(reached)


def _known(part: str, found: Mapping[tuple[str, str], PerUser]) -> tuple[str, bool]:
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


def _new(part: str, found: Mapping[tuple[str, str], PerUser]) -> tuple[str, bool]:
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
