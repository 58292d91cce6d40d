"""A run writes what is missing, once, users before items."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reclm.data.dataset import TrainingView
from reclm.profiles.estimate import dry_run
from reclm.profiles.lazy import LazyGenerator
from reclm.profiles.profile import Profile, Subject
from reclm.profiles.run import examples, make_profiles, plan
from reclm.profiles.store import ProfileStore
from reclm.text.chat import Chat, Generation, SamplingParams, TextGenerator


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore.open(tmp_path / "store", "f00d", "history", "toy")


def test_users_first_then_items_that_quote_them(
    view: TrainingView, profiler: Any, store: ProfileStore
) -> None:
    run = make_profiles(view, profiler, store, progress=False)
    assert store.texts("user") == {"u1": "likes A, B", "u2": "likes A, B", "u3": "likes C"}
    assert store.texts("item") == {
        "i1": "A, for: likes A, B; likes A, B",
        "i2": "B, for: likes A, B; likes A, B",
        "i3": "C, for: likes C",
    }
    users, items = run.kinds
    # u1 and u2 share a prompt of 7 tokens and its answer of 3; u4 has no history
    assert (users.subjects, users.distinct, users.generated, users.written) == (3, 2, 2, 3)
    assert (users.prompt_tokens, users.new_tokens, users.cut) == (14, 6, 0)
    assert (items.subjects, items.distinct, items.generated, items.written) == (3, 3, 3, 3)
    assert users.rate > 0
    assert (users.in_store, users.texts, users.in_format) == (3, 2, 3)


def test_profiles_out_of_format_are_counted(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    profiler.in_format = lambda kind, text: kind == "user" and "B" in text
    store.add([Profile("user", "from an earlier run", "likes B", "h", "history")])
    users, items = make_profiles(view, profiler, store, progress=False).kinds
    assert (users.in_store, users.in_format, items.in_format) == (4, 3, 0)


def test_a_second_run_generates_nothing(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    make_profiles(view, profiler, store, progress=False)
    profiler.answered.clear()
    run = make_profiles(view, profiler, store, progress=False)
    assert profiler.answered == []
    assert [one.stored for one in run.kinds] == [3, 3]
    assert run.generated == 0


def test_an_answered_prompt_is_shared(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    make_profiles(view, profiler, store, kinds=["user"], limit=1, progress=False)
    assert store.texts("user") == {"u1": "likes A, B"}
    profiler.answered.clear()
    (users,) = make_profiles(view, profiler, store, kinds=["user"], progress=False).kinds
    assert (users.stored, users.copied, users.generated) == (1, 1, 1)
    assert len(profiler.answered) == 1
    assert store.texts("user") == {"u1": "likes A, B", "u2": "likes A, B", "u3": "likes C"}


def test_a_changed_prompt_is_written_anew(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    store.add([Profile("user", "u3", "an older text", "an older prompt", "history")])
    make_profiles(view, profiler, store, kinds=["user"], progress=False)
    assert store.texts("user")["u3"] == "likes C"


def test_what_came_before_a_failure_is_kept(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    def fails_at_the_third(subjects: list[Subject]) -> Any:
        for count, profile in enumerate(type(profiler).write(profiler, subjects)):
            if count == 2:
                raise OSError("server gone")
            yield profile

    profiler.write = fails_at_the_third
    with pytest.raises(OSError, match="server gone"):
        make_profiles(view, profiler, store, progress=False)
    assert store.texts("user").keys() == {"u1", "u2"}


def test_a_plan_reads_as_a_sentence(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    make_profiles(view, profiler, store, kinds=["user"], limit=1, progress=False)
    assert str(plan(view, profiler, store, "user", {})) == (
        "3 users, 2 distinct prompts; stored: 1, shared with others: 1, prompts to write: 1"
    )


def test_dry_run_counts_and_stores_nothing(view: TrainingView, profiler: Any, encoder: Any) -> None:
    users, items = dry_run(view, profiler, None, encoder=encoder)
    assert (users.plan.subjects, users.plan.distinct, len(users.plan.prompts)) == (3, 2, 2)
    # two prompts answered with 3 tokens each; they are no chats, so none is read by a model
    assert (users.new_tokens, users.prompt_tokens, users.sample) == (6, 0, 2)
    assert users.seconds > 0
    assert users.embed_seconds > 0
    assert items.plan.missing[2].source == "C, for: likes A, B", "quotes an answer of the calibration"


def test_dry_run_knows_what_is_stored(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    make_profiles(view, profiler, store, kinds=["user"], limit=1, progress=False)
    profiler.answered.clear()
    (users,) = dry_run(view, profiler, store, kinds=["user"])
    assert (users.plan.stored, len(users.plan.copies), len(users.plan.prompts)) == (1, 1, 1)
    assert store.count() == 1
    (none,) = dry_run(view, profiler, store, kinds=["user"], limit=2)
    assert (none.seconds, none.sample) == (0.0, 0)


def test_examples_show_what_a_profile_was_made_from(
    view: TrainingView, profiler: Any, store: ProfileStore
) -> None:
    make_profiles(view, profiler, store, progress=False)
    store.add([Profile("user", "somebody else", "likes X", "h", "history")])
    users = examples(view, store, "user", 2)
    assert [(one.profile.id, one.source) for one in users] == [("u1", ["B", "A"]), ("u2", ["B", "A"])]
    assert examples(view, store, "item", 1)[0].source == ["A"]


def test_a_model_is_loaded_only_to_be_asked(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    loaded = []
    profiler.generator = LazyGenerator("m", lambda: loaded.append(1) or Silent())
    make_profiles(view, profiler, store, kinds=["user"], progress=False)
    assert loaded == [1]
    loaded.clear()
    profiler.generator = LazyGenerator("m", lambda: loaded.append(1) or Silent())
    make_profiles(view, profiler, store, kinds=["user"], progress=False)
    assert loaded == []
    assert profiler.generator.count_tokens({"a": Chat(())}) == {"a": 5}
    assert [one.text for one in profiler.generator.generate({"a": Chat(())}, SamplingParams.build({}))] == [
        "…"
    ]
    assert loaded == [1]


class Silent(TextGenerator):
    """Says next to nothing."""

    model = "m"

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        return iter([Generation(key, "…", 5, 1, "stop") for key in chats])

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        return dict.fromkeys(chats, 5)
