"""The plug-in: tuned folders that are opened, what is asked for whom, and the command line."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_langptune  # pyright: ignore[reportMissingImports]
import tiny_tuning  # pyright: ignore[reportMissingImports]

import reclm.cli
from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.storage import save
from reclm.errors import BadInput, NotFound
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator
from reclm.llm.models import find_model
from reclm.profilers.langptune.profiler import LangPTuneProfiler, Tuned
from reclm.profiles.store import ProfileStore


def test_a_finished_folder_is_opened(place, tuned):
    profiler = LangPTuneProfiler.open(tuned, {"temperature": 0.5, "max_new_tokens": 4})
    name = profiler.writer
    assert name.startswith(f"langptune-{profiler.generator.model}")
    assert "+rlso@" in name
    assert profiler.config.writing == SamplingParams(max_new_tokens=4, temperature=0.5)
    subjects = list(profiler.subjects(place.view, "user", np.arange(3), {}))
    assert [one.id for one in subjects] == ["u0", "u1", "u2"]
    profiles = list(profiler.write(subjects))
    assert sorted(one.id for one in profiles) == ["u0", "u1", "u2"]
    assert all(one.text.startswith("The user likes") and one.new_tokens <= 4 for one in profiles)
    assert list(profiler.subjects(place.view, "item", np.arange(3), {})) == []


def test_a_folder_of_version_0_1_opens(place, tuned, tmp_path):
    folder = Path(shutil.copytree(Path(__file__).parent / "tuned_by_0_1", tmp_path / "tuned"))
    shutil.copytree(tuned / "encoder", folder / "encoder")
    about = folder / "about.yaml"
    weights, model = find_model(place.model).name, place.model
    about.write_text(about.read_text().format(weights=weights, model=model), encoding="utf-8")
    profiler = LangPTuneProfiler.open(folder)
    assert (profiler.config.variant, profiler.config.source) == ("cl", "profile")
    assert Path(profiler.encoder.source) == (folder / "encoder").resolve()
    (profile,) = profiler.write(profiler.subjects(place.view, "user", np.arange(1), {}))
    assert profile.text.startswith("The user likes genres such as")


def test_what_cannot_be_opened(place, tuned, tmp_path):
    begun = LangPTuneProfiler(
        tiny_langptune.config(), model=place.model, folder=tmp_path / "begun", encoder=place.encoder
    )
    begun.tuning(place.view)
    with pytest.raises(BadInput, match="is not finished; run the same reclm tune again, it goes on"):
        LangPTuneProfiler.open(tmp_path / "begun", None, None, None)
    with pytest.raises(NotFound, match="holds no tuned profiler; give the folder that reclm tune wrote"):
        LangPTuneProfiler.open(tmp_path / "nowhere", None, None, None)
    with pytest.raises(BadInput, match="runs on transformers, not on 'openvino'; leave --engine out"):
        LangPTuneProfiler.open(tuned, None, None, "openvino")
    with pytest.raises(BadInput, match=r"'seed' is a setting of tuning, and .* is tuned; leave it out"):
        LangPTuneProfiler.open(tuned, {"seed": 1}, None, None)
    other = tiny_tuning.model(tmp_path / "other", context=1024)
    file = other / "model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: one + 1 for name, one in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(
        BadInput, match=r"was tuned from model@.*, not from other@.*; give that one with --model"
    ):
        LangPTuneProfiler.open(tuned, None, str(other), None)


def test_without_a_language_model_the_history_is_the_profile(place, tmp_path):
    config = tiny_langptune.config(variant="cl", source="history")
    out = tmp_path / "out"
    profiler = LangPTuneProfiler(config, model=place.model, folder=out, encoder=place.encoder)
    assert profiler.fit(place.view).generator is None
    assert Tuned.read(out).done
    for one in (profiler, LangPTuneProfiler.open(out)):
        assert one.writer == "langptune-history"
        assert Path(one.encoder.source) == (out / "encoder").resolve()
        (profile,) = one.write(one.subjects(place.view, "user", np.arange(1), {}))
        assert profile.text.split("\n")[0].startswith("- ")
        assert (profile.model, profile.new_tokens) == ("history", 0)


def test_what_is_trained_and_what_words_depend_on(place):
    def known(**changes: Any) -> tuple[Any, Any]:
        one = LangPTuneProfiler(tiny_langptune.config(**changes), model=place.model)
        return one.training(place.view), one.wording(place.view)

    zero, words = known(variant="zero")
    assert zero is None
    assert words == known(variant="cl")[1] != known(variant="cl", source="history")[1]
    assert words == known(variant="zero", seed=3)[1], "the most likely token is the same whatever the seed"
    assert known(variant="rlso")[1] is None
    assert known(variant="zero", source="history") == (None, known(variant="cl", source="history")[1])
    assert known(variant="cl")[0] != known(variant="cl", seed=1)[0]
    idle = {**tiny_langptune.settings()["cl"], "learning_rate": 0.5}
    assert known(variant="cl", cl=idle)[0] == known(variant="cl")[0]


class Echo(TextGenerator):
    """Answers with its first item, in two lines; ``asked`` are the questions of each call."""

    model = "echo"

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        self.asked.append({key: chat.messages[0].content for key, chat in chats.items()})
        for key, chat in chats.items():
            first = next(line for line in chat.messages[0].content.split("\n") if line.startswith("- "))
            yield Generation(key, f"{chat.answer_start}{first[1:]}\nand more", 9, 5, "stop")

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        return dict.fromkeys(chats, 1)


def view():
    """Users 0 and 1 have the same three items; user 2 has one, user 3 none."""
    train = Interactions(np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 1, 2, 0, 1, 2, 5]), np.arange(7))
    return replace(tiny_langptune.view(), train=train)


def profiler(**prompts: Any) -> tuple[LangPTuneProfiler, Echo]:
    echo = Echo()
    settings = {"prompts": {"begin": "The user likes", **prompts}, "sessions": {"history": 3}}
    return LangPTuneProfiler(tiny_langptune.LangPTuneConfig.build(settings), model=echo).fit(view()), echo


def test_equal_questions_are_asked_once():
    one, echo = profiler()
    found = {profile.id: profile for profile in one.write(one.subjects(view(), "user", np.arange(4), {}))}
    assert {name: profile.text for name, profile in found.items()} == {
        "u0": "The user likes quiet jazz and more",
        "u1": "The user likes quiet jazz and more",
        "u2": "The user likes loud tea and more",
    }
    ((first, second),) = [call.values() for call in echo.asked]
    assert first.split("\n")[:3] == ["- quiet jazz", "- quiet chess", "- quiet tea"]
    assert second.split("\n")[0] == "- loud tea"
    assert found["u0"].prompt_hash == found["u1"].prompt_hash != found["u2"].prompt_hash


def test_a_folded_history_is_read_with_the_profile_so_far():
    one, echo = profiler(fold=2)
    found = {profile.id: profile for profile in one.write(one.subjects(view(), "user", np.arange(4), {}))}
    first, then = echo.asked
    assert len(first) == 2
    (last,) = then.values()
    assert last.split("\n")[:2] == ["The user so far: The user likes quiet jazz and more", "- quiet tea"]
    assert found["u0"].text == found["u1"].text == "The user likes quiet tea and more"
    assert found["u2"].text == "The user likes loud tea and more"
    # another way to read is another question, also where the first part is the same
    whole, _ = profiler()
    hashes = [
        next(iter(some.subjects(view(), "user", np.arange(1), {}))).prompt_hash for some in (one, whole)
    ]
    assert hashes[0] == found["u0"].prompt_hash != hashes[1]


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings as ``--set`` takes them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield from ("--set", f"{prefix}{key}={'null' if value is None else value}")


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs ``reclm …`` on the data set ``tastes``; exit code, stdout and stderr."""
    train = place.view.train
    test = Interactions(train.user_idx[:3], np.array([1, 2, 3]))
    data = Dataset(
        "tastes",
        place.view.users,
        place.view.items,
        train,
        test,
        test,
        place.view.item_text,
        (Protocol("full-shot", np.arange(tiny_langptune.ITEMS)),),
        place.view.text_template,
    )
    save(data, tmp_path / "home" / "datasets" / "tastes")
    monkeypatch.setenv("COLUMNS", "160")

    def run(command: str, *options: object) -> tuple[int, str, str]:
        given = [
            "reclm",
            command,
            "--dataset",
            "tastes",
            "--home",
            tmp_path / "home",
            "--profiler",
            "langptune",
        ]
        monkeypatch.setattr(sys, "argv", list(map(str, [*given, *options])))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            reclm.cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_tune_and_profile_through_the_command_line(place, run, tmp_path):
    given = ["--model", place.model, "--encoder", place.encoder.source, *flat(tiny_langptune.settings())]
    given += ["--variant", "cl", "--out", tmp_path / "out"]
    code, said, err = run("tune", *given, "--show", 1, "--dry-run")
    assert code == 0, err
    for words in (
        "60 sessions: 42 to train on",
        "══ user u",
        "── begins: The user likes",
        "── next: ",
        "dry run",
    ):
        assert words in said
    assert "contrastive learning" in said
    assert "RLSO" not in said
    assert not (tmp_path / "out" / "cl").exists()

    code, said, err = run("tune", *given)
    assert code == 0, err
    for words in (
        "Random",
        "MostPopular",
        "LangPTune-CL",
        "ndcg@20",
        f"report: {tmp_path / 'out' / 'report.md'}",
    ):
        assert words in said
    code, said, err = run("profile", "--adapter", tmp_path / "out", "--kind", "user", "--limit", 5)
    assert code == 0, err
    (folder,) = (tmp_path / "home" / "profiles" / "tastes").iterdir()
    assert len(ProfileStore.read(folder).texts("user")) == 5

    code, said, err = run("tune", *given, "--variant", "rlso")
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert "was tuned with variant = cl, not rlso" in err


def test_the_baseline_without_a_language_model_through_the_command_line(place, run, tmp_path):
    given = ["--model", place.model, "--encoder", place.encoder.source, *flat(tiny_langptune.settings())]
    out = ["--out", tmp_path / "out"]
    code, said, err = run("tune", *given, "--variant", "cl", "--set", "source=history", *out)
    assert code == 0, err
    assert "EMB-CL" in said
    assert "next: reclm bench --backbone similarity" in said
    assert f"--encoder {tmp_path / 'out' / 'encoder'} --dataset tastes" in said
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for name in ("Random", "MostPopular", "history, untrained", "EMB-CL"):
        assert f"| {name} | " in report
