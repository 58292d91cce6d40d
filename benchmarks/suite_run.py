"""A suite that ran: its trials and records, the result that they make, and the files of a run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from safetensors.torch import load_file

from reclm import plugins
from reclm.benchmarks import results
from reclm.benchmarks.auto_trials import saved_way
from reclm.benchmarks.features import Features
from reclm.benchmarks.pool import Trial
from reclm.benchmarks.result_files import make_run_folder, write
from reclm.benchmarks.search import Searched, sentence
from reclm.benchmarks.suite import Row, Suite
from reclm.benchmarks.trial import Plan, TrialCache, TrialRecord, layout
from reclm.data.dataset import Dataset
from reclm.files import atomic_folder, draft_folder, move_to_free
from reclm.folders import current
from reclm.intervals import rise
from reclm.plugins import environment
from reclm.recommend.cold_validation import NEW
from reclm.recommend.saved import SavedModel, build_model, save_model


@dataclass(frozen=True, eq=False)
class SuiteRun:
    """A suite that ran: row name to a trial and a record for each seed, its search, or why it cannot run here."""

    suite: Suite
    source: Dataset
    datasets: tuple[Dataset, ...]
    """The data set of each seed: the same one, except where sessions are drawn."""
    cache: TrialCache
    trials: dict[str, list[Trial]]
    records: dict[str, list[TrialRecord]]
    searched: dict[str, Searched] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    first_look: int | None = None
    """Where ``seeds: auto`` chose the number of seeds: the fewest that it could have chosen."""
    stopped: str = ""
    """Why it chose no more."""

    def pairs(self) -> Iterator[tuple[str, Trial, TrialRecord]]:
        """Yield row name, trial and record."""
        for row, records in self.records.items():
            for trial, record in zip(self.trials[row], records, strict=True):
                yield row, trial, record

    def result(self) -> results.Result:
        """Return the result, read from the cached trials."""
        suite, failures = self.suite, []
        for row, trial, record in self.pairs():
            if record.error is not None:
                failures.append(results.Failure(row=row, seed=trial.seed, reason=record.error))
        about = results.RunInfo(
            **suite.model_dump(include={"title", "source", "comparable", "seeds", "metrics"}),
            dataset=self.source.name,
            fingerprint=self.source.fingerprint,
            first_look=self.first_look,
            selected_on=self._selected_on,
            protocols=tuple(self._protocol_infos()),
            rows=tuple(self._row(row) for row in suite.rows),
            remarks=tuple(self._remarks()),
            failures=tuple(failures),
            suite=suite.model_dump(mode="json", exclude_defaults=True),
            environment=environment(),
        )
        trials = {
            (row, trial.seed, protocol): values
            for row, trial, record in self.pairs()
            for protocol, values in self._protocols(trial, record)
        }
        histories = {(row, trial.seed): record.log + record.history for row, trial, record in self.pairs()}
        return results.Result(about, trials, {key: steps for key, steps in histories.items() if steps})

    def new_seconds(self) -> float:
        """Return the seconds of the last seed's trials, without those that are an earlier seed's as well."""
        trials = [trial for of_row in self.trials.values() for trial in of_row]
        last = max((trial.seed for trial in trials), default=0)
        earlier = {trial.key for trial in trials if trial.seed < last}
        new = {trial.key: record for _, trial, record in self.pairs() if trial.key not in earlier}
        return sum(record.seconds for record in new.values())

    def save(self, folder: str | Path | None, *names: str) -> results.Result:
        """Write the result with table, picture, examples, suite and, where they were saved, models.

        The folder appears, or is replaced, as a whole; None: a new one of the workspace, named by time and ``names``.
        """
        make_run_folder(folder)
        if folder is None:
            place = current().new_run(*names)
            with draft_folder(place) as draft:
                result = self._save(draft)
                place = move_to_free(draft, place)
        else:
            place = Path(folder)
            with atomic_folder(place) as draft:
                result = self._save(draft)
        object.__setattr__(result, "folder", place)
        return result

    def _save(self, folder: Path) -> results.Result:
        from reclm.benchmarks import examples
        from reclm.charts import save as save_picture

        result = self.result()
        shown = tuple(examples.examples(self)), tuple(examples.qualities(self))
        data = examples.checked(self, result.headline)
        result = replace(result, examples=shown[0], quality=shown[1], data=data)
        write(result, folder)
        if any(row.line for row in self.suite.rows):
            examples.draw_lines(self.suite, result, folder / "comparison.png")
        else:
            save_picture(result.plot(), folder / "comparison.png")
        self.suite.to_yaml(folder / "suite.yaml")
        (folder / "table.md").write_text(result.to_markdown(), encoding="utf-8")
        if self.cache.weights:
            self.save_models(folder / "models")
        return result

    def save_models(self, folder: Path) -> None:
        """Write the last seed's model of every row that ran to ``folder/ROW``, for ``reclm recommend``."""
        for name, trials in self.trials.items():
            trial = trials[-1]
            if self.records[name][-1].error is not None:
                continue
            features, backbone = trial.features.make(), trial.plan.backbone
            config = plugins.get("backbone", backbone).Config.build(dict(trial.plan.model))
            encoder, source = features.encoder or ("", None)
            place, store = getattr(self.source, "folder", None), features.store
            about: dict[str, Any] = {"dataset": self.source.name, "fingerprint": self.source.fingerprint}
            about |= {"dataset_folder": str(place.resolve()) if place else None, "environment": environment()}
            about |= {"profiles": {"writer": features.writer, "store": str(store.folder)} if store else None}
            about |= {"trained_on": ("train", "valid") if self._on_test else ("train",), "seed": trial.seed}
            about |= {"encoder": encoder, "encoder_source": source, "backbone": backbone, "variant": name}
            inputs, chosen = saved_way(features.inputs, self.records[name][-1].chosen)
            about |= {"fusion": inputs.fusion, "chosen": chosen}
            saved = SavedModel(config=config.model_dump(mode="json"), **about)
            model = build_model(saved, inputs, trial.dataset)
            model.load_state_dict(load_file(self.cache.weights_of(trial.key)))
            save_model(folder / name, saved, model, inputs)

    @property
    def _selected_on(self) -> str:
        new = any(name.startswith(NEW) for _, _, record in self.pairs() for name in record.validation)
        chosen_by = "validation" + "; zero-shot's by new validation items" * new
        return "the TEST set, which flatters" if self._on_test else chosen_by

    @property
    def _on_test(self) -> bool:
        return self.suite.select_on == "test"

    def _protocol_infos(self) -> Iterator[results.ProtocolInfo]:
        """Yield protocols and their subgroups; where seeds have users of their own, all of them count."""
        users: dict[str, set[str]] = {}
        sizes: dict[str, tuple[int, str | None]] = {}
        for dataset in dict.fromkeys(self.datasets):
            parts = layout(dataset, self._on_test)
            for name, whole in parts.tasks.items():
                for part, task in {name: whole, **parts.subgroups[name]}.items():
                    sizes.setdefault(part, (len(task.candidates), None if part == name else name))
                    users.setdefault(part, set()).update(dataset.users.ids(task.users.numpy()))
        for part, (candidates, whole) in sizes.items():
            known: dict[str, Any] = {"users": len(users[part]), "candidates": candidates, "part_of": whole}
            yield results.ProtocolInfo(name=part, **known)

    def _row(self, row: Row) -> results.ResultRow:
        searched, origin = self.searched.get(row.name), self._origin(row.name)
        trials = self.trials.get(row.name)
        learns = bool(trials) and any(record.history for record in self.records[row.name])
        return results.ResultRow(
            **row.model_dump(include={"name", "backbone", "published", "published_seconds", "note"}),
            baseline=bool(row.backbone) and plugins.get("backbone", row.backbone).baseline,
            reference=bool(row.backbone) and plugins.get("backbone", row.backbone).reference,
            against=self.suite.against(row),
            control=row.profiles.control if row.profiles else None,
            stands_for=self.suite.stands_for(row),
            kinds=row.profiles.kinds if row.profiles else (),
            **({"writer": origin.writer, "coverage": origin.coverage} if origin else {}),
            absent=self.absent.get(row.name, ""),
            options=_options(trials[0].plan) if trials else {},
            most_epochs=trials[0].plan.train.epochs if trials and learns else 0,
            trials=searched.trials if searched else (),
            chosen=(searched.chosen if searched else {}) | self._chosen(row.name),
        )

    def _chosen(self, row: str) -> dict[str, Any]:
        """Return what the row's trials chose themselves; where they differ, each value with its number of seeds."""
        chosen: dict[str, Any] = {}
        records = [record.chosen for record in self.records.get(row, ()) if record.chosen]
        for name in records[0] if records else ():
            counts = Counter(values[name] for values in records).most_common()
            several = ", ".join(f"{value} ({count} of {len(records)} seeds)" for value, count in counts)
            chosen[name] = counts[0][0] if len(counts) == 1 else several
        return chosen

    def _origin(self, row: str) -> Features | TrialRecord | None:
        """Return what knows writer, coverage and checks of a row's profiles: of the first trial that has any."""
        pairs = zip(self.trials.get(row, ()), self.records.get(row, ()), strict=True)
        known = (pair for pair in pairs if isinstance(pair[0].features, Features) or pair[1].error is None)
        return next((_profiles(*pair) for pair in known), None)

    def _remarks(self) -> Iterator[str]:
        if self.suite.note:
            yield from self.suite.note.split("\n")
        if self.stopped:
            yield f"the number of seeds was chosen by their variance (seeds: auto): {self.stopped}"
        if self.suite.sessions:
            yield "each seed has held-out users of its own"
        if self.searched:
            assert self.suite.search is not None
            yield sentence(self.suite.search, {row: search.plan for row, search in self.searched.items()})
        origins = filter(None, map(self._origin, self.trials))
        if checked := dict.fromkeys(text for origin in origins for text in origin.checked):
            yield f"checked for leaks: {'; '.join(checked)}"
        for row in self.suite.rows:
            if row.name in self.records and not (row.profiles and row.profiles.control):
                yield from _entering(row)
                yield from self._about_profiles(row.name)

    def _about_profiles(self, row: str) -> Iterator[str]:
        """Yield how a row's profiles read, how much the encoder cuts of them, and whether the reward rose."""
        pairs = zip(self.trials[row], self.records[row], strict=True)
        measures = [measured for pair in pairs if (measured := _profiles(*pair).measures)]
        means: dict[str, float] = {}
        for name in measures[0] if measures else ():
            numbers = np.array([measured.get(name) for measured in measures], np.float64)  # None becomes nan
            means[name] = float(np.nanmean(numbers)) if np.isfinite(numbers).any() else float("nan")
        if "words" in means:
            shares = f"{means['compliance']:.0%} in order, {means['copying']:.0%} of word triples copied"
            ease = f"{means['words']:.0f} words, reading ease {means['readability']:.0f}"
            yield f"profiles of {row}: {ease}, {shares}"
        if means.get("truncated", 0) > 0:
            yield f"{row}: the encoder's window cuts {means['truncated']:.1%} of the texts"
        series, unit = _rewards([record.log for record in self.records[row]])
        change = rise(series) if series else None
        if change and change.low is not None and change.high is not None:
            verb = "rose" if change.low > 0 else "fell" if change.high < 0 else "did not change significantly"
            interval, whole = f"[{change.low:+.4f}, {change.high:+.4f}]", np.concatenate(series).mean()
            halves = f"the mean reward of {row}'s {unit}, second half less first"
            yield f"{halves}, {verb}: {change.mean:+.4f} {interval} of {whole:.4f}, {change.n} of them"

    @cached_property
    def _activity(self) -> dict[Dataset, np.ndarray]:
        known = {data: layout(data, self._on_test).train.user_idx for data in dict.fromkeys(self.datasets)}
        return {data: np.bincount(users, minlength=len(data.users)) for data, users in known.items()}

    def _protocols(self, trial: Trial, record: TrialRecord) -> Iterator[tuple[str, results.TrialResult]]:
        """Yield protocol and values of a trial; none of one that failed."""
        if not record.means:
            return
        users = self.cache.users(trial.key)
        times = sorted(row["seconds"] for row in record.history)
        for protocol, means in record.means.items():
            part = users.filter(pc.equal(users.column("protocol"), protocol))
            values = {name: part.column(name).to_numpy() for name in means if name in part.column_names}
            overall = {name: value for name, value in means.items() if name not in values}
            overall |= _profiles(trial, record).measures
            ids = part.column("user_id").combine_chunks()
            profiled = results.PROFILE in part.column_names and not part.column(results.PROFILE).null_count
            result = results.TrialResult(
                user_ids=part.column("user_id").cast("string").to_numpy(),
                activity=self._activity[trial.dataset][trial.dataset.users.find(ids)],
                profiled=part.column(results.PROFILE).to_numpy() if profiled else None,
                values=values,
                overall={name: np.nan if value is None else value for name, value in overall.items()},
                best_epoch=record.best_epoch[protocol],
                epochs=len(record.history),
                seconds=record.seconds,
                epoch_seconds=times[len(times) // 2] if times else float("nan"),
                key=trial.key,
            )
            yield protocol, result


def _entering(row: Row) -> Iterator[str]:
    """Say how a row's profiles enter, where that is not the papers' way."""
    fusion, kinds = (row.profiles.fusion, row.profiles.kinds) if row.profiles else ("dual-mlp", ())
    if fusion == "residual":
        yield f"profiles of {row.name} are a residual term, zero at first"
    elif fusion == "text":
        users = "; those of users, who have no text, are a residual term" * ("user" in kinds)
        yield f"item profiles of {row.name} join the items' texts{users}"
    elif fusion == "auto":
        yield f"{row.name} has the profiles as a residual term, in the items' texts, or not at all, by validation"


def _profiles(trial: Trial, record: TrialRecord) -> Features | TrialRecord:
    """Return what knows writer, coverage, checks and measures of a trial's profiles."""
    return trial.features if isinstance(trial.features, Features) else record


def _rewards(logs: Sequence[Sequence[Mapping[str, float]]]) -> tuple[list[np.ndarray], str]:
    """Return the mean reward of each pass over the prompts, where the logs tell passes apart; else of each update."""
    steps = [rewarded for log in logs if (rewarded := [step for step in log if "reward" in step])]
    rewards = [np.array([step["reward"] for step in log]) for log in steps]
    if not steps or not all("pass" in step for log in steps for step in log):
        return rewards, "updates"
    passes = [np.unique([int(step["pass"]) for step in log], return_inverse=True)[1] for log in steps]
    means = [np.bincount(at, values) / np.bincount(at) for at, values in zip(passes, rewards, strict=True)]
    return means, "passes over the prompts"


def _options(plan: Plan) -> dict[str, Any]:
    """Return every option of a plan's backbone and training by name; ``train.NAME`` where both have it."""
    model = plugins.get("backbone", plan.backbone).Config.build(dict(plan.model)).model_dump(mode="json")
    train = plan.train.model_dump(mode="json")
    train = {f"train.{name}" if name in model else name: value for name, value in train.items()}
    new = {f"{name}, new items": value for name, value in plan.new_items.items()}
    return {"backbone": plan.backbone, "select_on": plan.select_on, **model, **train, **new}
