"""``reclm tune`` and what follows it, through the command line, on a tiny data set with a tiny model."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fake_encoder import use_encoder
from filelock import FileLock
from safetensors.torch import save_file

import reclm.cli
from reclm.benchmarks.results import Result
from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.storage import save
from reclm.profiles.store import ProfileStore

sys.path.append(str(Path(__file__).parents[1] / "profilers" / "reclm"))

import tiny_tuning  # pyright: ignore[reportMissingImports]

Run = Callable[..., tuple[int, str, str]]


class Letters(tiny_tuning.Letters):
    """As the command makes an encoder."""

    dim, source = 26, "letters"

    def __init__(self, name: str | None = None, device: str | None = None) -> None:
        pass


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings as ``--set`` takes them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield from ("--set", f"{prefix}{key}={value}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model``, the teacher's ``users.csv`` and ``items.csv``, and ``home`` with the data set ``tastes``."""
    place = tmp_path_factory.mktemp("tune")
    tiny_tuning.model(place / "model")
    tiny_tuning.teachers(place)
    view = tiny_tuning.view()
    later = Interactions(np.arange(40), (np.arange(40) % 3) + 9)
    known = view.train.user_idx * 100 + view.train.item_idx
    new = np.flatnonzero(~np.isin(later.user_idx * 100 + later.item_idx, known))
    valid, test = later.take(new[::2]), later.take(new[1::2])
    data = Dataset(
        "tastes",
        view.users,
        view.items,
        view.train,
        valid,
        test,
        view.item_text,
        (Protocol("full-shot", np.arange(12)),),
        view.text_template,
    )
    save(data, place / "home" / "datasets" / "tastes")
    return place


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    """An encoder that needs no model."""
    with pytest.MonkeyPatch.context() as patch:
        use_encoder(patch, Letters)
        patch.setenv("COLUMNS", "160")
        yield patch


@pytest.fixture(scope="module")
def call(place: Path, patch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``reclm …`` on the data set; its exit code."""

    def call(command: str, *options: object) -> int:
        given = ["reclm", command, "--dataset", "tastes", "--home", place / "home", *options]
        patch.setattr(sys, "argv", list(map(str, given)))
        try:
            reclm.cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


@pytest.fixture
def run(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``reclm …``; exit code, stdout and stderr."""

    def run(*options: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call(*options)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def given(place: Path) -> list[object]:
    """The tiny model, the teacher, and few steps of everything."""
    files = ["--teacher", place / "users.csv", "--teacher-items", place / "items.csv"]
    # room for a profile in format: one that is cut is none
    settings = tiny_tuning.settings() | {"generation": {"constrain": True, "max_new_tokens": 160}}
    return ["--model", place / "model", *files, *flat(settings)]


@pytest.fixture(scope="module")
def tuned(place: Path, call: Callable[..., int], given: list[object]) -> Path:
    """All stages, in the folder that is taken by default."""
    assert call("tune", *given) == 0
    (folder,) = (place / "home" / "tuned" / "tastes").glob("[!.]*")
    return folder


def test_to_look_at_samples_and_to_estimate_tunes_nothing(place: Path, run: Run, given: list[object]) -> None:
    out = place / "looked-at"
    code, said, _ = run("tune", *given, "--out", out, "--show", 1, "--dry-run")
    assert code == 0
    for words in ("══ kd:", "══ collab:", "══ reward", "══ items:", "[assistant]", "[better]", "mask  naive"):
        assert words in said
    for words in ("dry run: nothing is tuned", "time (estimate)", "ppo"):
        assert words in said
    assert not list(out.rglob("adapter"))
    # what was shown does not bind what is tuned
    code, said, _ = run("tune", *given, "--out", out, "--dry-run", "--stages", "kd", "--set", "kd.epochs=2")
    assert (code, "collab" in said) == (0, False)


def test_tune_profile_bench(place: Path, run: Run, given: list[object], tuned: Path) -> None:
    for stage in ("kd", "collab", "reward", "ppo", "items"):
        assert (tuned / stage / "adapter" / "adapter_model.safetensors").is_file()
        assert (tuned / stage / "metrics.jsonl").is_file()
    assert not list(tuned.rglob("cache-*")), "tokenised samples that a run would leave, each time anew"
    times = {one: one.stat().st_mtime_ns for one in tuned.rglob("adapter_model.safetensors")}
    code, out, err = run("tune", *given)
    assert code == 0
    # all is done: nothing is done again
    assert {one: one.stat().st_mtime_ns for one in tuned.rglob("adapter_model.safetensors")} == times
    assert "samples to learn from" not in err
    home = f"--dataset tastes --home {place / 'home'}"
    assert f"next: reclm profile --profiler {tuned} {home}" in out
    assert (tuned / "README.md").is_file()
    assert (tuned / "curves.png").stat().st_size > 10_000

    code, out, _ = run("profile", "--profiler", "reclm", "--adapter", tuned)
    assert code == 0
    (command,) = [line for line in out.splitlines() if line.startswith("next: reclm bench ")]
    for option in ("--augment", "--dataset tastes", f"--profiler {tuned}", "--home"):
        assert option in command
    (folder,) = (place / "home" / "profiles" / "tastes").iterdir()
    store = ProfileStore.read(folder)
    assert (len(store.texts("user")), len(store.texts("item"))) == (40, 12)
    assert all(one.startswith("User identity:") for one in store.texts("user").values())

    bench = ["bench", "--backbone", "biasmf", "--epochs", "2", "--set", "dim=4", "--augment"]
    code, out, err = run(*bench, "--profiler", "reclm", "--adapter", tuned, "--out", place / "run")
    assert code == 0, err
    assert "augment" in out
    assert "40 of 40 users" in out
    assert Result.load(place / "run").row("augment").coverage["user"] == (40, 40)
    assert pq.read_table(place / "run" / "results.parquet").num_rows > 0


def test_how_it_writes_may_be_set_but_not_how_it_was_tuned(run: Run, tuned: Path) -> None:
    options = ["--profiler", "reclm", "--adapter", tuned, "--kind", "user", "--limit", "1"]
    code, out, _ = run("profile", *options, "--set", "generation.max_new_tokens=9")
    assert (code, "prompts answered" in out) == (0, True)
    code, out, err = run("profile", *options, "--set", "kd.epochs=9")
    *notes, message = err.splitlines()
    assert (code, out, len(notes)) == (2, "", 1)  # the note: 0.1's --adapter is --profiler now
    assert "'kd'" in message


def without_template(place: Path) -> Path:
    """The tiny model as one that was not tuned to chat."""
    folder = Path(shutil.copytree(place / "model", place / "plain"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def bad(place: Path) -> Path:
    """Models and teachers that nothing can be learned with."""
    without_template(place).rename(place / "no-template")
    tiny_tuning.model(place / "short", context=64)
    (place / "empty.csv").write_text("")
    (place / "head.csv").write_text("id,text\n")
    (place / "strangers.csv").write_text("id,text\nx1,User identity: a; User interests: b.\n")
    (place / "chatter.csv").write_text("id,text\nu1,Sure! Here is the profile.\n")
    (place / "full").mkdir()
    (place / "full" / "thesis.tex").write_text("")
    return place


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--teacher", "empty.csv"], "empty.csv is empty: it holds no profile"),
        (["--teacher", "head.csv"], "head.csv is empty: it holds no profile"),
        (["--teacher", "strangers.csv"], "1 of 1 user ids are not in data set 'tastes', such as 'x1'"),
        (["--teacher", "chatter.csv"], "none of 1 profiles is in the format"),
        (["--teacher", "nowhere.csv"], "nowhere.csv"),
        (["--model", "no-template"], "has no chat template; use an instruction-tuned one"),
        (
            ["--model", "short"],
            "40 kd: does not fit the token budget; give profiles of more subjects, raise",
        ),
        (["--model", "./nowhere"], "there is no model at ./nowhere"),
        (["--stages", "kd,dpo"], "stages.1 = 'dpo': Input should be 'kd', 'collab'"),
        (["--stages", "kd,ppo"], "stages = ['kd', 'ppo']: ppo needs the reward stage before it"),
        (["--variant", "nave"], "variant = 'nave'"),
        (["--set", "kd.epoch=1"], "unknown profiler reclm key 'kd.epoch'; did you mean 'kd.epochs'?"),
        (["--set", "kdd.epochs=1"], "unknown profiler reclm key 'kdd'; did you mean 'kd'?"),
        (["--set", "kd.epochs=0"], "kd.epochs = 0"),
        (["--set", "kd.four_bit=true"], "four_bit = true needs a GPU"),
        (["--out", "full"], "holds something else than a tuned profiler"),
        (["--profiler", "zero-shot"], "profiler 'zero-shot' has nothing to tune; use it with reclm profile"),
        (["--profiler", "keyword"], "did you mean 'keywords'?"),
        (["--dataset", "taste"], "did you mean 'tastes'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    bad: Path,
    run: Run,
    given: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(bad)
    code, out, err = run("tune", *given, "--out", tmp_path / "out", *options)
    assert (code, out) == (2, "")
    *before, last = err.splitlines()
    # a stage may have said that it begins
    assert [one for one in before if one not in {"kd:"} and "samples to learn from" not in one] == []
    assert last.startswith("error: ")
    assert told in last
    assert not list((tmp_path / "out").rglob("adapter*"))


def test_two_do_not_tune_in_one_folder(run: Run, given: list[object], tuned: Path) -> None:
    with FileLock(tuned.parent / f".{tuned.name}.lock"):
        code, out, err = run("tune", *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"another reclm tune is at work in {tuned}" in err
    assert run("tune", *given)[0] == 0


def test_without_a_teacher(place: Path, run: Run, tmp_path: Path) -> None:
    options = ["--model", place / "model", "--out", tmp_path / "out"]
    code, out, err = run("tune", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "tuning needs user profiles to learn from: give --teacher FILE, or --teacher-model NAME" in err
    code, _, err = run(
        "tune", *options, "--teacher-items", place / "items.csv", *flat(tiny_tuning.settings())
    )
    assert (code, err.count("\n")) == (2, 1)


def test_a_teacher_that_is_asked_goes_on_where_it_stopped(
    place: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model itself, held to the format, as its own teacher."""
    settings = tiny_tuning.settings() | {"measured": 0}
    settings["generation"] = {"constrain": True, "max_new_tokens": 160}
    settings["teacher"] |= {"limit": 12}
    options = ["--model", place / "model", "--teacher-model", place / "model", *flat(settings)]
    options += ["--stages", "kd", "--out", tmp_path / "out"]
    code, _, err = run("tune", *options)
    assert code == 0, err
    assert (tmp_path / "out" / "teacher").is_dir()
    assert "prompts to write: 11" in err
    shutil.rmtree(tmp_path / "out" / "kd")
    code, _, err = run("tune", *options)
    assert code == 0
    assert "prompts to write: 11" not in err


@pytest.mark.parametrize("stage", ["kd", "ppo"])
def test_a_full_disk_is_one_line_and_the_step_before_is_gone_on_from(
    tuned: Path, run: Run, given: list[object], tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "out"
    before = {"kd": [], "ppo": ["kd", "collab", "reward"]}[stage]
    for one in before:
        shutil.copytree(tuned / one, out / one)
    if before:
        for name in ("config.yaml", "about.yaml"):
            shutil.copy(tuned / name, out / name)
        shutil.copytree(tuned / "neighbours", out / "neighbours")
    options = [*given, "--out", out, "--stages", ",".join([*before, stage]), "--set", "measured=0"]
    options += ["--set", f"{stage}.checkpoint_steps=1"]
    write = torch.save

    def full(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-3" in str(path) or "step-000002" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(value, path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", full)
        code, said, err = run("tune", *options)
    assert (code, said) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: cannot write ")
    assert "No space left on device" in last
    assert not (out / stage / "adapter").exists()
    kept = "checkpoint-2" if stage == "kd" else "step-000001"
    assert (out / stage / "checkpoints" / kept).is_dir()

    assert run("tune", *options)[0] == 0
    lines = [json.loads(line) for line in (out / stage / "metrics.jsonl").read_text().splitlines()]
    steps = [one["step"] for one in lines if "loss" in one or "reward" in one]
    assert steps == list(range(1, len(steps) + 1))
    file = Path(stage) / "adapter" / "adapter_model.safetensors"
    assert (out / file).read_bytes() == (tuned / file).read_bytes()


@pytest.mark.parametrize("where", ["data", "adapter"])
def test_a_full_disk_while_data_or_the_adapter_is_written(
    tuned: Path, run: Run, given: list[object], tmp_path: Path, where: str
) -> None:
    out = tmp_path / "out"
    options = [*given, "--out", out, "--stages", "kd", "--set", "measured=0"]

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    def half(self: Any, folder: str, **kwargs: Any) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({}, Path(folder) / "adapter_model.safetensors")
        if folder.endswith(".new"):
            full()

    place = {"data": "datasets.Dataset.save_to_disk", "adapter": "peft.PeftModel.save_pretrained"}[where]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, {"data": full, "adapter": half}[where])
        code, said, err = run("tune", *options)
    assert (code, said) == (2, "")
    assert err.splitlines()[-1].startswith("error: cannot write ")
    assert "No space left on device" in err.splitlines()[-1]
    assert not (out / "kd" / "adapter").exists()
    assert (out / "kd" / "data").exists() == (where == "adapter")
    if where == "data":
        assert run("tune", *options)[0] == 0
        file = Path("kd") / "adapter" / "adapter_model.safetensors"
        assert (out / file).read_bytes() == (tuned / file).read_bytes()
