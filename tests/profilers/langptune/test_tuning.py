"""All variants on tiny data, what a broken run leaves, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_langptune  # pyright: ignore[reportMissingImports]
import tiny_tuning  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file

from reclm.config import merged
from reclm.errors import BadInput, ReclmError
from reclm.folders import workspace
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.pipeline import Alternation, LangPTunePipeline
from reclm.profilers.langptune.profiler import LangPTuneProfiler, Tuned
from reclm.profilers.langptune.recommender import Contrastive

ADAPTER, ENCODER = Path("adapter") / "adapter_model.safetensors", Path("encoder") / "model.safetensors"


def tuning(place, out: Path, view=None, model: str | None = None, **changes: Any) -> LangPTunePipeline:
    """In ``out``; ``changes`` of the settings go into their parts."""
    config = tiny_langptune.LangPTuneConfig.build(merged(tiny_langptune.settings(), changes))
    profiler = LangPTuneProfiler(config, model=model or place.model, folder=out, encoder=place.encoder)
    return profiler.tuning(view or place.view)


def steps(out: Path, stage: str) -> list[int]:
    file = out / stage / "metrics.jsonl"
    if not file.exists():
        return []
    return [json.loads(line)["step"] for line in file.read_text(encoding="utf-8").splitlines()]


def table(folder: Path) -> Any:
    (weights,) = load_file(folder / "model.safetensors").values()
    return weights


def moved(place, out: Path) -> bool:
    """Whether the encoder is another than it was."""
    before = place.encoder.model[0].embedding.weight
    return bool((table(out / "encoder") != before).any())


def test_both_are_trained(place, tuned):
    assert steps(tuned, "cl") == steps(tuned, "rlso") == [1, 2, 3, 4]
    assert moved(place, tuned)
    # the second matrices are 0 at the start
    second = [one for name, one in load_file(tuned / ADAPTER).items() if "lora_B" in name]
    assert second
    assert all(one.abs().max() > 0 for one in second)
    assert not list(tuned.rglob("checkpoints"))
    rows = [json.loads(line) for line in (tuned / "rlso" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["reward_seconds"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("changes", "cl", "rlso"),
    [
        ({"variant": "cl"}, 4, 0),
        ({"variant": "rlso", "prompts": {"fold": 2}, "rlso": {"steps": 2}}, 0, 2),
        ({"variant": "zero"}, 0, 0),
        ({"variant": "cl", "source": "history"}, 4, 0),
        ({"variant": "zero", "source": "history"}, 0, 0),
    ],
)
def test_variants(place, tmp_path, changes, cl, rlso):
    one = tuning(place, tmp_path, **changes)
    one.run()
    assert (steps(tmp_path, "cl"), steps(tmp_path, "rlso")) == (
        list(range(1, cl + 1)),
        list(range(1, rlso + 1)),
    )
    assert ((tmp_path / ENCODER).exists(), (tmp_path / ADAPTER).exists()) == (cl > 0, rlso > 0)
    assert (one.tuned.encoder is not None, one.tuned.adapter() is not None) == (cl > 0, rlso > 0)
    if cl:
        assert moved(place, tmp_path)
        rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "cl" / "metrics.jsonl").open()]
        assert rates == pytest.approx([1e-5, 0.75e-5, 0.5e-5, 0.25e-5])
    if rlso:
        # one prompt a training session, of both rounds
        for number in (1, 2):
            prompts = json.loads((tmp_path / "rlso" / f"round-{number}.json").read_text())
            told = [one.prompts.text(ids) for ids in prompts]
            assert len(told) == len(one.train_rows)
            assert all("The user so far: The user likes" in text for text in told)
    # nothing is left to do
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    tuning(place, tmp_path, **changes).run()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == times


def test_last_layers_as_a_variant_of_its_own(place, tmp_path):
    """Where the processor computes in bf16, the frozen layers are; the profiler that reads the folder is in float32."""
    changes = {
        "lora": {"train": "last_layers", "layers": 1},
        "rlso": {"steps": 2, "samples": 3, "finish_reward": 0.1, "repeat_penalty": 0.1},
        "reward_at": 5,
    }
    one = tuning(place, tmp_path, **changes)
    one.run()
    rows = [json.loads(line) for line in (tmp_path / "rlso" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["kl"] == 0 != rows[1]["kl"]
    assert {"repeating", "unfinished", "copying", "score_seconds"} <= rows[0].keys()
    weights = load_file(tmp_path / ADAPTER)
    assert all(".layers.1." in name or name.endswith(".norm.weight") for name in weights)
    profiler = LangPTuneProfiler.open(tmp_path, model=place.model)
    (profile,) = profiler.write(profiler.subjects(place.view, "user", np.arange(1), {}))
    assert profile.text.startswith("The user likes")


@pytest.mark.parametrize("stage", ["cl", "rlso"])
def test_a_killed_run_goes_on_to_the_same_end(place, tuned, tmp_path, stage):
    out = tmp_path / "out"
    assert tiny_langptune.apart(place.folder, out, stage) == -9
    assert not Tuned.read(out).done
    assert len(steps(out, stage)) >= 3
    tuning(place, out).run()
    for part in ("cl", "rlso"):
        assert steps(out, part) == [1, 2, 3, 4]
    for file in (ADAPTER, ENCODER):
        assert (out / file).read_bytes() == (tuned / file).read_bytes(), file


def test_a_run_that_was_broken_at_its_very_end(place, tmp_path, monkeypatch):
    def broken(self: Tuned) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tuned, "finish", broken)
        with pytest.raises(KeyboardInterrupt):
            tuning(place, tmp_path, variant="cl", source="history").run()
    before = (tmp_path / ENCODER).read_bytes()
    tuning(place, tmp_path, variant="cl", source="history").run()
    assert (tmp_path / ENCODER).read_bytes() == before
    assert Tuned.read(tmp_path).done
    (tmp_path / "cl" / "checkpoints" / "step-000004").mkdir(parents=True)  # killed before it was deleted
    tuning(place, tmp_path, variant="cl", source="history").run()
    assert not (tmp_path / "cl" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variant": "cl"}, "variant = full, not cl"),
        ({"cl": {"temperature": 0.3}}, r"cl.temperature = 0\.1, not 0\.3"),
        ({"prompts": {"begin": "I like"}}, "prompts.begin = The user likes, not I like"),
        ({"sessions": {"seed": 1}}, "sessions.seed = 0, not 1"),
        ({"lora": {"modules": ["q_proj"]}}, r"lora.modules = all-linear, not \['q_proj'\]"),
        ({"seed": 3}, "seed = 0, not 3"),
    ],
)
def test_other_options_in_the_same_folder(place, tuned, changes, told):
    before = (tuned / "config.yaml").read_bytes()
    with pytest.raises(BadInput, match=f"was tuned with {told}; go on with the same options, or") as raised:
        tuning(place, tuned, **changes)
    assert "\n" not in str(raised.value)
    assert (tuned / "config.yaml").read_bytes() == before


def test_another_data_set_or_encoder_in_the_same_folder(place, tuned):
    with pytest.raises(BadInput, match="was tuned with fingerprint = fingerprint, not other"):
        tuning(place, tuned, replace(place.view, fingerprint="other"))
    encoder = tiny_langptune.TextEncoder(str(tuned / "encoder"), "cpu")
    with pytest.raises(BadInput, match=r"was tuned with encoder = encoder@.*, not encoder@"):
        Tuned.begin(
            tuned, tiny_langptune.config(), place.view, Tuned.read(tuned).model(), None, encoder=encoder.name
        )


def test_what_was_only_looked_at_binds_nothing(place, tmp_path):
    first = tuning(place, tmp_path)
    assert list(first.sample_texts(1))
    one = tuning(place, tmp_path, variant="zero", sessions={"history": 3})
    assert one.sessions.history.shape[1] == 3
    assert Tuned.read(tmp_path).config.variant == "zero"


def test_how_it_writes_may_change(place, tuned, tmp_path):
    out = Path(shutil.copytree(tuned, tmp_path / "tuned"))
    tuning(place, out, temperature=0.5, measured=3, max_new_tokens=4)
    assert Tuned.read(out).config.temperature == 0.5


def test_a_folder_of_something_else_is_left_alone(place, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="holds something else than a tuned profiler; give another folder"):
        tuning(place, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(BadInput, match=r"cannot write .*thesis.tex"):
        tuning(place, tmp_path / "thesis.tex")


def test_a_model_that_was_not_tuned_to_chat(place, tmp_path):
    folder = Path(shutil.copytree(place.model, tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="has no chat template; use an instruction-tuned one"):
        tuning(place, tmp_path / "out", model=str(folder))


def test_a_model_with_a_short_window(place, tmp_path):
    folder = tiny_tuning.model(tmp_path / "short", context=64)
    with pytest.raises(BadInput, match=r"a prompt is too long: \d+ tokens and up to 6 new ones"):
        tuning(place, tmp_path / "out", model=str(folder), variant="cl").run()


def test_too_few_items_for_a_session(place, tmp_path):
    with pytest.raises(BadInput, match="user with too few items"):
        tuning(place, tmp_path, sessions={"history": 50}).run()


def test_batches_that_cannot_be_shared_by_the_rounds():
    with pytest.raises(
        ReclmError, match=r"cl.steps = 5 cannot be shared evenly by 2 rounds; make it a multiple"
    ):
        tiny_langptune.config(cl={"steps": 5})
    with pytest.raises(
        ReclmError, match=r"source = history has no language model to train; variant 'full' needs"
    ):
        tiny_langptune.config(source="history")


_OF_ALL = {"prompts.item_chars"}
_WRITTEN = {"prompts.begin", "rlso.max_new_tokens"}
_SAMPLED = _WRITTEN | {"rlso.temperature"}
_LEARNED = {"cl.steps", "train_ratio"}


@pytest.mark.parametrize(
    ("variant", "source", "used"),
    [
        ("cl", "history", _LEARNED | {"cl.learning_rate_alone"}),
        ("cl", "profile", _LEARNED | _SAMPLED | {"cl.learning_rate_alone", "cl.reuse"}),
        ("rlso", "profile", _SAMPLED | {"rlso.steps", "train_ratio", "lora.r", "rounds", "reward"}),
        (
            "full",
            "profile",
            _LEARNED
            | _SAMPLED
            | {"rlso.steps", "lora.r", "rounds", "reward", "cl.learning_rate", "cl.reuse"},
        ),
    ],
)
def test_what_a_variant_needs_to_be_told(variant, source, used):
    changes: dict[str, Any] = {
        "cl.steps": 8,
        "rlso.steps": 8,
        "train_ratio": 0.5,
        "rlso.max_new_tokens": 3,
        "rlso.temperature": 0.5,
        "lora.r": 3,
        "rounds": 1,
        "reward": "mrr",
        "cl.reuse": True,
        "cl.learning_rate": 0.5,
        "cl.learning_rate_alone": 0.5,
        "prompts.begin": "They like",
        "prompts.item_chars": 50,
    }

    def needed(more: dict[str, Any]) -> LangPTuneConfig:
        settings = {**merged(tiny_langptune.settings(), more), "variant": variant, "source": source}
        return LangPTuneConfig.build(settings).needed()

    plain, found = needed({}), set()
    for name, value in changes.items():
        part, _, inner = name.partition(".")
        if needed({part: {inner: value} if inner else value}) != plain:
            found.add(name)
    assert found == used | _OF_ALL
    assert LangPTuneConfig.build(plain.model_dump(mode="json")) == plain


def test_items_without_text_are_neither_shown_nor_ranked(place, tmp_path):
    titles = place.view.item_text["title"].to_pylist()
    view = replace(
        place.view, item_text=pa.table({"title": ["" if at == 3 else one for at, one in enumerate(titles)]})
    )
    one = tuning(place, tmp_path, view)
    assert 3 not in one.sessions.items
    assert 3 not in one.sessions.history
    assert len(one.sessions.items) == tiny_langptune.ITEMS - 1


def test_an_encoder_that_cuts_what_it_reads(place, tmp_path, monkeypatch, capsys):
    # all titles have two words, the histories many more
    encoder = type(place.encoder)
    monkeypatch.setattr(encoder, "window", 2)
    one = tuning(place, tmp_path, variant="zero", source="history")
    one.run()
    said = capsys.readouterr().err
    assert "warning: the encoder reads 2 tokens, which cuts 100.0% of the histories" in said
    assert "item texts" not in said
    assert "warning: the encoder's window cuts 100.0% of the users' texts" in one.results()
    monkeypatch.setattr(encoder, "window", 1)
    tuning(place, tmp_path / "other").warn_truncation()
    said = capsys.readouterr().err
    assert "warning: the encoder reads 1 tokens, which cuts 100.0% of the item texts" in said
    assert (
        "warning: profiles may have 6 tokens, and the encoder reads 1; what share is cut is said at the end"
        in said
    )
    monkeypatch.setattr(encoder, "window", 999)
    tuning(place, tmp_path / "other").warn_truncation()
    assert capsys.readouterr().err == ""
    tuning(place, tmp_path / "another", prompts={"review_chars": 3}).warn_truncation()
    assert "reviews are cut to 3 characters in prompts" in capsys.readouterr().err


def test_the_seed_is_that_of_all_that_is_drawn(place, tmp_path):
    alternation = Alternation(tuning(place, tmp_path, seed=5, rlso={"seed": 2}))
    assert alternation.rlso is not None
    assert alternation.rlso.config.seed == 7


def test_sessions_are_those_of_the_training_part(place, tuned):
    one = tuning(place, tuned)
    sessions = one.sessions
    assert len(sessions) == tiny_langptune.USERS
    assert sorted(np.bincount(sessions.split)) == [6, 12, 42]
    assert set(one.train_rows) == set(np.flatnonzero(sessions.split == 0))


def test_a_share_of_the_training_sessions(place, tmp_path):
    drawn = [tuning(place, tmp_path, train_ratio=0.5, seed=seed).train_rows for seed in (0, 0, 1)]
    every = tuning(place, tmp_path).train_rows
    for rows in drawn:
        assert len(rows) == len(every) / 2 == 21
        assert set(rows) < set(every)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.fixture
def sampled(monkeypatch) -> list[int]:
    """Sessions that a policy is sampled for."""
    rows: list[int] = []
    sampled = Alternation._sampled

    def writing(self: Alternation, some: list[int], seeds: list[int]) -> Any:
        rows.extend(some)
        return sampled(self, some, seeds)

    monkeypatch.setattr(Alternation, "_sampled", writing)
    return rows


REUSE: dict[str, Any] = {"train_ratio": 0.3, "cl": {"reuse": True}}


@pytest.mark.parametrize("variant", ["cl", "full"])
def test_a_sessions_profile_is_sampled_once_a_round_where_that_is_asked(place, tmp_path, sampled, variant):
    one = tuning(place, tmp_path / "out", variant=variant, **REUSE)
    one.run()
    alternation = Alternation(one)
    drawn = [alternation._drawn(step)[0] for step in range(4)]
    # two rounds of two batches; once the policy has changed, all is sampled anew
    parts = [drawn[:2], drawn[2:]] if variant == "full" else [drawn]
    assert sum(map(len, drawn)) > len(sampled) == sum(len(set().union(*part)) for part in parts)
    assert not (tmp_path / "out" / "cl" / "samples").exists()


def test_samples_of_the_untrained_model_serve_other_tunings(place, tmp_path, sampled):
    def tuned(out: str, **changes: Any) -> list[int]:
        sampled.clear()
        tuning(place, tmp_path / out, **merged(REUSE, changes)).run()
        return sampled.copy()

    def seconds(out: str) -> list[float]:
        lines = (tmp_path / out / "cl" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["rollout_seconds"] for line in lines]

    first = tuned("cl", variant="cl")
    assert len(first) == 13
    assert tuned("faster", variant="cl", cl={"learning_rate_alone": 0.1}) == []
    # what a training takes does not depend on what ran before
    assert seconds("faster") == pytest.approx(seconds("cl"))
    assert seconds("cl")[0] > 0 == seconds("cl")[-1]
    second_round = tuned("full")  # by a policy that was trained
    assert 0 < len(second_round) <= 13
    assert len(tuned("warmer", rlso={"temperature": 0.5})) > len(second_round)
    assert len(tuned("other", variant="cl", seed=1)) > 0


def test_an_interrupted_run_samples_no_profile_again(place, tmp_path, monkeypatch, sampled):
    trained = Contrastive.train_step

    def broken(self: Contrastive, *args: Any) -> Any:
        raise KeyboardInterrupt

    changes: dict[str, Any] = {"variant": "cl", **merged(REUSE, {"cl": {"checkpoint_steps": 4}})}
    monkeypatch.setattr(Contrastive, "train_step", broken)
    with pytest.raises(KeyboardInterrupt):
        tuning(place, tmp_path / "broken", **changes).run()
    (samples,) = (tmp_path / "home" / "cells" / "samples").glob("*.jsonl")
    samples.write_text(samples.read_text()[:-9])  # the last line is cut short
    lost, before = sampled[-1], set(sampled)
    monkeypatch.setattr(Contrastive, "train_step", trained)
    sampled.clear()
    tuning(place, tmp_path / "broken", **changes).run()
    assert before & set(sampled) == {lost}
    workspace(tmp_path / "another")
    tuning(place, tmp_path / "whole", **changes).run()
    assert steps(tmp_path / "broken", "cl") == steps(tmp_path / "whole", "cl")
    assert (table(tmp_path / "broken" / "encoder") == table(tmp_path / "whole" / "encoder")).all()
