"""The commands that are killed, and the states that they begin in: tiny data, a tiny model, a tiny encoder."""

import csv
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import reclm
from reclm.data.dataset import Dataset, Interactions, Protocol, TrainingView
from reclm.data.storage import save
from reclm.profiles.store import ProfileStore

from .harness import Command, Outcome, Place

USERS, ITEMS = 40, 24
TASTES = ("jazz", "chess", "tea")
WORDS = ("quiet", "loud", "old", "new", "small", "great", "warm", "cold")


def _csv(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def _raw(folder: Path, users: int = USERS) -> None:
    """Write ``raw``: interactions of users of three tastes, each with six of their taste's eight items, and titles."""
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(users) for item in rng.permutation(8)[:6] * 3 + user % 3]
    rows = [(f"u{user}", f"i{item}", 1_600_000_000 + 1_000 * at) for at, (user, item) in enumerate(pairs)]
    _csv(folder / "raw" / "interactions.csv", ("user_id", "item_id", "timestamp"), rows)
    titles = [(f"i{at}", f"{WORDS[at // 3]} {TASTES[at % 3]} music") for at in range(ITEMS)]
    _csv(folder / "raw" / "items.csv", ("item_id", "title"), titles)


def _of_view(view: TrainingView, folder: Path) -> None:
    """Save a view's training part as a data set, with another interaction of each user to choose or test on."""
    users, items = np.arange(len(view.users)), len(view.items)
    known = set(zip(view.train.user_idx.tolist(), view.train.item_idx.tolist(), strict=True))
    later = np.array(
        [next(item for item in range(user % 3, items, 3) if (user, item) not in known) for user in users]
    )
    parts = (view.train, Interactions(users[::2], later[::2]), Interactions(users[1::2], later[1::2]))
    protocols = (Protocol("full-shot", np.arange(items)),)
    rest = (view.item_text, protocols, view.text_template)
    save(Dataset(view.name, view.users, view.items, *parts, *rest), folder / "home" / "datasets" / view.name)


def _models(folder: Path) -> None:
    """Write a model as one file and as a folder, and an encoder."""
    from transformers.utils.logging import disable_progress_bar

    from tests.profilers.langptune import tiny_langptune
    from tests.profilers.reclm import tiny_tuning
    from tests.text import tiny

    disable_progress_bar()
    tiny.CONTEXT = 2048
    tiny.write_tiny_gguf(folder / "model.gguf")
    tiny_tuning.model(folder / "model")
    tiny_langptune.encoder(folder / "encoder")


def _more_raw_data(folder: Path) -> None:
    _raw(folder, USERS + 20)


def _in(format: str) -> Callable[[Path], None]:
    """Return a function that exports fewer profiles, which another writer wrote, in a format."""

    def older_export(folder: Path) -> None:
        older = {f"u{number}": f"likes {taste}" for number, taste in enumerate(TASTES)}
        data, encoder = reclm.load_dataset("films"), str(folder / "encoder")
        profiles = reclm.Profiles.from_frames(data, users=older, encoder=encoder)
        profiles.export(folder / "export", format)
        shutil.rmtree(profiles.folder)

    return older_export


def _models_and_words(folder: Path) -> None:
    _models(folder)
    rows = [(f"u{number}", f"likes {TASTES[number % 3]}") for number in range(USERS)]
    _csv(folder / "words.csv", ("user_id", "text"), rows)


def _model(folder: Path) -> None:
    """Save a model of other options."""
    reclm.fit("biasmf", reclm.load_dataset("films"), epochs=1, dim=2).save(folder / "model-of-films")


def _other_run(folder: Path) -> None:
    """Move the run, and save a part of it over a copy."""
    _run_folder(folder)
    shutil.copytree(folder / "run", folder / "saved")
    run = reclm.Result.load(folder / "run")
    replace(run, history={}, examples=(), quality=()).save(folder / "saved")


def _other_data(folder: Path) -> None:
    """Change the data of profiles, of which some get words that tell what is taken over."""
    _raw(folder, USERS - 4)
    reclm.prepare_dataset("table", folder / "raw", name="films", replace=True)
    with ProfileStore.read(folder / "home" / "profiles" / "films" / "keywords") as store:
        known = [store.get("item", f"i{number}") for number in range(ITEMS)]
        store.add(replace(profile, text=f"{profile.text}, earlier") for profile in known if profile)


def _run_folder(folder: Path) -> None:
    (run,) = (folder / "home" / "runs").iterdir()
    run.rename(folder / "run")


def _reclm(folder: Path) -> None:
    """Make a data set, models, a teacher's profiles, and settings of few steps."""
    from tests.profilers.reclm import tiny_tuning

    _models(folder)
    _of_view(tiny_tuning.view(), folder)
    tiny_tuning.teachers(folder)
    settings = tiny_tuning.settings() | {"generation": {"constrain": True, "max_new_tokens": 160}}
    (folder / "few.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def _langptune(folder: Path) -> None:
    """Make a data set, models, and settings of few steps."""
    from tests.profilers.langptune import tiny_langptune

    _models(folder)
    _of_view(tiny_langptune.view(), folder)
    (folder / "few.yaml").write_text(yaml.safe_dump(tiny_langptune.settings()), encoding="utf-8")


_PREPARE = "data prepare table --source raw --name films"
_FILMS = "--dataset films --encoder encoder"
_KEYWORDS = f"--profiler keywords {_FILMS}"
_MODEL = (
    "--model model.gguf --engine transformers --engine-set batch_size=1 "  # alone: batches round differently
    "--set constrain=true --set max_new_tokens=160"
)
_CARRY_OVER = f"profile --carry-over {_KEYWORDS}"
_EXPORT = f"profiles export {_KEYWORDS} --out export --format"
_FIT = "fit --backbone biasmf --epochs 3 --set dim=4 --store home/profiles/films/keywords"
_BENCH = "--backbone biasmf --augment --epochs 3 --set dim=4 --seeds 2"
_TUNE = "tune --dataset tastes --model model --encoder encoder --config few.yaml --out tuned"
_TEACHER = "--teacher users.csv --teacher-items items.csv"
_RECLM = f"{_TUNE} --profiler reclm {_TEACHER} --set measured=0 --stages"
_LANGPTUNE = f"{_TUNE} --profiler langptune --set measured=4"

_STORES = "home/profiles/**/*.lance"
_MODEL_OUT = "model-of-films"

_ALL = (
    Command("prepare", _PREPARE, "home/datasets/films/**/*", state=_raw),
    Command("prepare again", _PREPARE, "home/datasets/films/**/*", "prepare", _more_raw_data),
    Command("profile keywords", f"profile {_KEYWORDS}", _STORES, "prepare", _models),
    Command("profile model", f"profile {_MODEL} {_FILMS}", _STORES, "prepare", _models),
    Command(
        "carry over", _CARRY_OVER, "home/profiles/films/keywords/*.lance", "profile keywords", _other_data
    ),
    Command("import", f"profiles import words.csv {_FILMS}", _STORES, "prepare", _models_and_words),
    Command("export npy", f"{_EXPORT} npy", "export/*", "profile keywords", _in("npy")),
    Command("export parquet", f"{_EXPORT} parquet", "export/*", "profile keywords", _in("npy")),
    Command("export tensors", f"{_EXPORT} safetensors", "export/*", "profile keywords", _in("parquet")),
    Command("export recbole", f"{_EXPORT} recbole", "export/*", "profile keywords", _in("recbole")),
    Command("data export", "data export films --out atomic", "atomic/*", "prepare"),
    Command("fit", f"{_FIT} {_FILMS}", "home/runs/*/models/*/*", "profile keywords"),
    Command(
        "fit again", f"{_FIT} {_FILMS} --out {_MODEL_OUT}", f"{_MODEL_OUT}/*", "profile keywords", _model
    ),
    Command("bench", f"bench {_BENCH} {_KEYWORDS}", "home/runs/*/*", "prepare", _models),
    Command("bench jobs", f"bench {_BENCH} --jobs 2 {_KEYWORDS}", "home/runs/*/*", "prepare", _models),
    Command("bench out", f"bench {_BENCH} --out run {_KEYWORDS}", "run/*", "bench", _run_folder),
    Command("save", "run saved", "saved/*", "bench", _other_run, module="tests.kills.save_result"),
    Command("report", "report run", "run/report.html", "bench", _run_folder),
    Command("tune kd", f"{_RECLM} kd", "tuned/kd/**/*", state=_reclm),
    Command("tune collab", f"{_RECLM} kd,collab", "tuned/collab/**/*", "tune kd"),
    Command("tune reward", f"{_RECLM} kd,collab,reward", "tuned/reward/**/*", "tune collab"),
    Command("tune ppo", f"{_RECLM} kd,collab,reward,ppo", "tuned/ppo/**/*", "tune reward"),
    Command("tune items", f"{_RECLM} kd,collab,reward,ppo,items", "tuned/items/**/*", "tune ppo"),
    Command(
        "tune, measured",
        f"{_RECLM} kd,collab,reward,ppo,items --set measured=3",
        "tuned/report/**/*",
        "tune items",
    ),
    Command("tune cl", f"{_LANGPTUNE} --set variant=cl", "tuned/**/*", state=_langptune),
    Command("tune rlso", f"{_LANGPTUNE} --set variant=full", "tuned/**/*", state=_langptune),
)
COMMANDS = {command.name: command for command in _ALL}


def kill(root: Path, name: str, kills: int, seed: int, forked: bool) -> list[Outcome]:
    """Return the outcomes of a command that is killed ``kills`` times in all."""
    place, outcomes, left = Place(root, COMMANDS, forked), [], kills
    while left > 0 and len(outcomes) < 3 * kills:
        outcomes.append(place.case(name, place.moments(name, len(outcomes), seed)[:left]))
        left -= len(outcomes[-1].moments)
    return outcomes
