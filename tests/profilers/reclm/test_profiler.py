"""What is asked by RecLM's profiler, untuned and tuned; nothing here generates text but a stand-in."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_tuning  # pyright: ignore[reportMissingImports]
from safetensors import safe_open

from reclm.data.dataset import ProfileKind
from reclm.errors import BadInput, NotFound
from reclm.llm.chat import Chat, Generation, TextGenerator
from reclm.profilers.reclm.profiler import RecLMProfiler

WARM, COLD = np.arange(11), np.array([11])


class Parrot(TextGenerator):
    """Says the last line of the question."""

    model = "parrot"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, chats, params):
        for key, chat in chats.items():
            self.asked.append(key)
            text = f"{chat.answer_start} {chat.messages[-1].content.splitlines()[-1]}\n"
            yield Generation(key, text, 5, 3, "stop")

    def count_tokens(self, chats):
        return dict.fromkeys(chats, 5)


@pytest.fixture
def untuned(tiny) -> RecLMProfiler:
    config = tiny_tuning.config(tiny.folder, stages=[])
    return RecLMProfiler(config, model=Parrot(), encoder=tiny.encoder).fit(tiny.view)


@pytest.fixture
def opened(tiny, tuned):
    """Opens what was tuned, with settings."""

    def opened(folder: Path = tuned, **settings) -> RecLMProfiler:
        profiler = RecLMProfiler.open(folder, settings, None, None)
        profiler.encoder = tiny.encoder
        return profiler.fit(tiny.view)

    return opened


def asked(
    profiler: RecLMProfiler, tiny, kind: ProfileKind = "user", idx=None, **known: Any
) -> dict[str, str]:
    """The last question to each subject."""
    rows = np.arange(len(tiny.view.idmap(kind))) if idx is None else idx
    subjects = profiler.subjects(tiny.view, kind, rows, known)  # pyright: ignore[reportArgumentType]
    chats = {one.id: one.source for one in subjects}
    questions = {}
    for id, chat in chats.items():
        assert isinstance(chat, Chat)
        questions[id] = chat.messages[-1].content
        # as the answers to this question were taught to begin
        numbered = "User 1: " if is_together(questions[id]) else ""
        assert chat.answer_start == f"{numbered}User identity:"
    return questions


def hashes(profiler: RecLMProfiler, tiny, kind: ProfileKind = "user", **known: Any) -> list[str]:
    rows = np.arange(len(tiny.view.idmap(kind)))
    subjects = profiler.subjects(tiny.view, kind, rows, known)  # pyright: ignore[reportArgumentType]
    return [one.prompt_hash for one in subjects]


def is_alone(question: str) -> bool:
    return question.startswith("The user chose, newest first:") and "User 2" not in question


def is_together(question: str) -> bool:
    return question.startswith("User 1 chose:") and "User 2 chose:" in question


def test_an_untuned_model_is_asked_for_one_user_at_a_time(tiny, untuned) -> None:
    questions = asked(untuned, tiny)
    assert len(questions) == tiny_tuning.USERS
    assert all(map(is_alone, questions.values()))
    # newest first, in the data set's words
    row = tiny.view.history("user", 0)
    newest = [f"- jazz {item}" for item in tiny.view.train.item_idx[row][::-1][:3]]
    assert questions["u0"].splitlines() == ["The user chose, newest first:", *newest, "Describe the user."]


def test_equal_prompts_are_answered_once_and_profiles_say_how_they_came_about(tiny, untuned) -> None:
    subjects = list(untuned.subjects(tiny.view, "user", np.arange(40), {}))
    profiles = {one.id: one for one in untuned.write(subjects)}
    assert len(profiles) == 40
    assert len(untuned.generator.asked) == len({one.prompt_hash for one in subjects}) < 40
    one = profiles["u0"]
    assert one.text == "User identity: Describe the user."
    assert (one.kind, one.model, one.prompt_tokens, one.new_tokens) == ("user", "parrot", 5, 3)
    assert one.prompt_hash == subjects[0].prompt_hash


def test_the_format_is_that_of_the_config(untuned) -> None:
    assert untuned.in_format("user", "User identity: a; User interests: b.")
    assert not untuned.in_format("user", "User identity: a, c; User interests: b, d.")
    assert not untuned.in_format("item", "Describe the user.")


def test_a_model_that_is_to_be_tuned_is_not_asked_as_it_is(tiny) -> None:
    with pytest.raises(BadInput) as error:
        RecLMProfiler(tiny.config, model=Parrot()).fit(tiny.view)
    assert (error.value.where, error.value.remedy) == ("stages", "stages=[]")


@pytest.mark.parametrize(
    ("stages", "like"), [(["kd"], is_alone), (["kd", "collab"], is_together), (["collab"], is_together)]
)
def test_prompts_are_those_that_the_last_stage_was_tuned_on(tiny, opened, stages, like) -> None:
    profiler = opened(stages=stages)
    questions = asked(profiler, tiny)
    assert len(questions) == tiny_tuning.USERS
    assert all(map(like, questions.values()))
    assert f"+{stages[-1]}@" in profiler.generator.model


def test_neighbours_are_those_that_were_found_when_it_was_tuned(tiny, tuned, opened) -> None:
    (path,) = (tuned / "neighbours").glob("nearest*.safetensors")
    with safe_open(path, "np") as file:
        nearest = file.get_tensor("values")[0]
    lines = ["User 1 chose:"]
    for number, (user, most) in enumerate(((0, 3), (nearest[0], 2), (nearest[1], 2)), start=1):
        items = tiny.view.train.item_idx[tiny.view.history("user", user)][::-1][:most]
        lines += [f"User {number} chose:"] * (number > 1)
        lines += [f"- {tiny_tuning.TASTES[item % 3]} {item}" for item in items]
    assert asked(opened(), tiny)["u0"].splitlines()[:-1] == lines


def test_items_that_nobody_chose_come_in_a_second_round(tiny, opened) -> None:
    profiler = opened()
    rounds = profiler.rounds(tiny.view, "item")
    assert [one.tolist() for one in rounds] == [WARM.tolist(), COLD.tolist()]
    assert [len(one) for one in profiler.rounds(tiny.view, "user")] == [tiny_tuning.USERS]
    warm = replace(tiny.view, train=replace(tiny.view.train, item_idx=tiny.view.train.item_idx % 3))
    assert [one.tolist() for one in profiler.rounds(warm, "item")] == [[0, 1, 2], list(range(3, 12))]
    assert [len(one) for one in profiler.rounds(replace(tiny.view, train=tiny.view.train), "item")] == [11, 1]


def test_warm_items_quote_users_and_cold_ones_similar_items(tiny, opened) -> None:
    profiler = opened()
    users = {f"u{at}": f"User identity: id {at}; User interests: x." for at in range(40)}
    warm = asked(profiler, tiny, "item", WARM, user=users)
    assert len(warm) == 11
    assert warm["i0"].splitlines()[:3] == ["The item:", "- jazz 0", "Some users who chose it:"]
    clickers = tiny.view.train.user_idx[tiny.view.train.item_idx == 0]
    newest = [f"- {users[f'u{at}']}" for at in clickers[::-1][:5]]
    assert warm["i0"].splitlines()[3:-1] == newest

    items = {f"i{at}": f"User identity: id {at}; User interests: y." for at in range(11)}
    cold = asked(profiler, tiny, "item", COLD, user=users, item=items)
    # by letters tea 2, tea 5 and tea 8 are equally like tea 11; two are wanted
    lines = cold["i11"].splitlines()
    assert lines[:3] == ["The item:", "- tea 11", "Similar items, and whom each is for:"]
    assert len(lines[3:-1]) == 2
    assert set(lines[3:-1]) <= {f"- tea {at} For: {items[f'i{at}']}" for at in (2, 5, 8)}
    # without a profile to quote there is still the item
    assert "jazz" not in asked(profiler, tiny, "item", COLD)["i11"]


def test_the_same_is_asked_again_and_something_else_of_another_adapter(tiny, tuned, opened, tmp_path) -> None:
    first = hashes(opened(), tiny)
    assert hashes(opened(), tiny) == first
    folder = Path(shutil.copytree(tuned, tmp_path / "copy"))
    assert hashes(opened(folder), tiny) == first
    shutil.copytree(folder / "collab" / "adapter", folder / "ppo" / "adapter", dirs_exist_ok=True)
    assert not set(hashes(opened(folder), tiny)) & set(first)


def test_users_and_items_are_asked_of_the_model_tuned_for_them(tiny, opened) -> None:
    profiler = opened()
    for kind, stage in (("user", "ppo"), ("item", "items"), ("user", "ppo")):
        hashes(profiler, tiny, kind)  # pyright: ignore[reportArgumentType]
        assert f"+{stage}@" in profiler.generator.model


def test_settings_change_how_it_writes(tiny, opened) -> None:
    plain, hot = opened(), opened(generation={"temperature": 0.7})
    assert hot.config.generation.temperature == 0.7
    # the rest of the part is as it was tuned
    assert hot.config.generation.max_new_tokens == plain.config.generation.max_new_tokens == 8
    assert asked(hot, tiny) == asked(plain, tiny)
    assert hot.generator.model == plain.generator.model
    assert not set(hashes(hot, tiny)) & set(hashes(plain, tiny))


@pytest.mark.parametrize("settings", [{"kd": {"epochs": 9}}, {"variant": "naive"}, {"held_out": 0.5}])
def test_settings_of_tuning_are_refused(opened, settings) -> None:
    with pytest.raises(BadInput, match=rf"'{next(iter(settings))}' is a setting of tuning"):
        opened(**settings)
    with pytest.raises(NotFound, match=r"unknown profiler reclm key 'generaton'; did you mean 'generation'"):
        opened(generaton={})


def test_a_folder_of_items_only_is_opened(tiny, tuned, opened, tmp_path) -> None:
    folder = Path(shutil.copytree(tuned, tmp_path / "copy"))
    for stage in ("kd", "collab", "reward", "ppo"):
        shutil.rmtree(folder / stage)
    profiler = opened(folder, stages=["items"])
    assert all(map(is_alone, asked(profiler, tiny).values()))
    assert profiler.generator.model == tiny.model.name
    asked(profiler, tiny, "item", WARM)
    assert "+items@" in profiler.generator.model


def test_what_it_writes_is_the_tuned_models(tiny, opened) -> None:
    profiler = opened()
    subjects = list(profiler.subjects(tiny.view, "user", np.arange(2), {}))
    # the untrained model never ends: as profiles its answers are cut, which is told
    assert not list(profiler.write(subjects))
    assert {*profiler.faults} == {one.prompt_hash for one in subjects}
    profiles = list(profiler.answers("user", {one.prompt_hash: one.source for one in subjects}))
    assert len(profiles) == 2
    assert all(one.text.startswith("User identity:") for one in profiles)
    assert {one.model for one in profiles} == {profiler.generator.model}
    assert profiler.fit(tiny.view) is profiler


def test_texts_that_are_cut_are_counted(untuned, tiny):
    assert untuned.cut_texts(tiny.view, "user") == []
    title = "A jazz record. " + "It is long. " * 30
    items = pa.table({name: [title, *column.to_pylist()[1:]] for name, column in text_columns(tiny.view)})
    (said,) = untuned.cut_texts(replace(tiny.view, item_text=items), "user")
    assert said.startswith("1 of ")
    assert "cut to 300 characters" in said


def text_columns(view):
    return zip(view.item_text.column_names, view.item_text.columns, strict=True)
