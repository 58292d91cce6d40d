"""A run writes what is missing, once, users before items."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator
from reclm.llm.models import LazyGenerator
from reclm.profiles.estimate import dry_run
from reclm.profiles.profile import Profile, Subject
from reclm.profiles.run import examples, make_profiles, plans
from reclm.profiles.store import ProfileStore


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
    assert users.seconds > 0
    assert (users.in_store, users.texts, users.in_format) == (3, 2, 3)


def test_what_writing_took_is_kept(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    users, items = make_profiles(view, profiler, store, progress=False).kinds
    for run in (users, items):
        rows = store.rows(run.kind, ["prompt_hash", "seconds"]).to_pylist()
        assert all(row["seconds"] > 0 for row in rows)
        # those of a prompt that two share are one
        assert sum({row["prompt_hash"]: row["seconds"] for row in rows}.values()) <= run.seconds


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
    make_profiles(view, profiler, store, kinds=["user"], rows={"user": np.array([0])}, progress=False)
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


def test_data_that_grew_are_asked_of_only_where_the_prompt_has_changed(
    view: TrainingView, profiler: Any, store: ProfileStore
) -> None:
    with store:
        make_profiles(view, profiler, store, kinds=["user"], progress=False)
    # u3 has chosen B, too; u4, who was unknown, A and B
    clicks = view.train
    grown = replace(
        view,
        fingerprint="beef",
        train=Interactions(
            np.concatenate([clicks.user_idx, [2, 3, 3]]), np.concatenate([clicks.item_idx, [1, 0, 1]])
        ),
    )
    profiler.answered.clear()
    with ProfileStore.open(store.folder, "beef", "history", "toy", carry_over=True) as new:
        (users,) = make_profiles(
            grown, profiler, new, ["user"], progress=False, rows={"user": np.arange(2)}
        ).kinds
    assert (users.copied, profiler.answered) == (2, [])
    # killed, say, and begun again: the earlier store is still known
    with ProfileStore.open(store.folder, "beef", "history", "toy", carry_over=True) as new:
        (users,) = make_profiles(grown, profiler, new, kinds=["user"], progress=False).kinds
        assert new.texts("user") == {
            "u1": "likes A, B",
            "u2": "likes A, B",
            "u3": "likes C, B",
            "u4": "likes A, B",
        }
        assert set(new.rows(columns=["fingerprint"]).column("fingerprint").to_pylist()) == {"beef"}
    assert (users.stored, users.copied, len(profiler.answered)) == (2, 1, 1)


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
    make_profiles(view, profiler, store, kinds=["user"], rows={"user": np.array([0])}, progress=False)
    assert str(next(plans(view, profiler, store, "user", {}))) == (
        "3 users, 2 distinct prompts; stored: 1, shared with others: 1, prompts to write: 1"
    )


ITEMS_IN_ROUNDS = {
    "i2": "B, for: likes A, B; likes A, B",
    "i3": "C, for: likes C",
    "i1": "A, near: B, for: likes A, B; likes A, B | C, for: likes C",
    "i4": "D, near: B, for: likes A, B; likes A, B | C, for: likes C",
}


def test_a_round_quotes_the_rounds_before_and_no_other(
    view: TrainingView, in_rounds: Any, store: ProfileStore
) -> None:
    store.add([Profile("item", "i4", "of an earlier run", "h", "history")])
    users, items = make_profiles(view, in_rounds, store, progress=False).kinds
    assert store.texts("item") == ITEMS_IN_ROUNDS
    assert (users.subjects, users.distinct, users.generated, users.written) == (3, 2, 2, 3)
    assert (items.subjects, items.distinct, items.stored, items.copied) == (4, 4, 0, 0)
    assert (items.generated, items.written, items.prompt_tokens, items.new_tokens) == (4, 4, 28, 12)
    assert (items.in_store, items.texts, items.in_format) == (4, 4, 4)
    in_rounds.answered.clear()
    again = make_profiles(view, in_rounds, store, progress=False).kinds[1]
    assert in_rounds.answered == []
    assert (again.subjects, again.stored, again.generated, again.seconds) == (4, 4, 0, 0)


def test_a_limit_counts_over_the_rounds(view: TrainingView, in_rounds: Any, store: ProfileStore) -> None:
    make_profiles(view, in_rounds, store, kinds=["user"], progress=False)
    for limit in (2, 3):  # the whole of round one; one of round two
        (items,) = make_profiles(view, in_rounds, store, ["item"], limit, progress=False).kinds
        assert store.texts("item").keys() == set(list(ITEMS_IN_ROUNDS)[:limit])
        assert (items.subjects, items.in_store) == (limit, limit)
    (items,) = make_profiles(view, in_rounds, store, ["item"], progress=False).kinds
    assert (items.stored, items.generated) == (3, 1)
    assert store.texts("item") == ITEMS_IN_ROUNDS


def backwards(profiler: Any) -> None:
    """Have the profiler name its subjects last first: u3, who shares a prompt with none, before u1 and u2."""
    in_order = profiler.subjects
    profiler.subjects = lambda *args: reversed(list(in_order(*args)))


def test_the_prompt_that_most_share_is_written_first(
    view: TrainingView, profiler: Any, store: ProfileStore
) -> None:
    backwards(profiler)
    todo = next(plans(view, profiler, store, "user", {}))
    assert [one.source for one in todo.prompts] == ["likes A, B", "likes C"]
    make_profiles(view, profiler, store, kinds=["user"], progress=False)
    assert profiler.answered == [one.prompt_hash for one in todo.prompts]


def test_a_profiler_is_handed_some_prompts_at_a_time(
    view: TrainingView, profiler: Any, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reclm.profiles.run.BATCH", 1)
    backwards(profiler)
    handed: list[list[str]] = []
    write = profiler.write

    def noted(subjects: list[Subject]) -> Iterator[Profile]:
        handed.append([one.id for one in subjects])
        yield from write(subjects)

    profiler.write = noted
    (users,) = make_profiles(view, profiler, store, kinds=["user"], progress=False).kinds
    assert [set(one) for one in handed] == [{"u1", "u2"}, {"u3"}], "with all who share a prompt"
    assert users.written == 3


def test_only_the_commonest_prompts(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    backwards(profiler)
    for prompts, ids in ((1, {"u1", "u2"}), (1, {"u1", "u2"}), (2, {"u1", "u2", "u3"})):
        (users,) = make_profiles(view, profiler, store, ["user"], progress=False, prompts=prompts).kinds
        assert store.texts("user").keys() == ids
        assert (users.subjects, users.distinct) == (len(ids), prompts)
    (estimate,) = dry_run(view, profiler, None, ["user"], prompts=1)
    assert (estimate.plan.subjects, estimate.plan.left_out, len(estimate.plan.prompts)) == (2, 1, 1)
    assert str(estimate.plan).startswith("2 of 3 users, 1 distinct prompts; ")
    (first,) = dry_run(view, profiler, None, ["user"], limit=1, prompts=1)
    assert first.plan.prompt_hashes.keys() == {"u1"}, "the commonest of the first one"


def test_a_limit_draws_the_same_at_random_and_a_higher_one_adds_to_them(
    view: TrainingView, profiler: Any, store: ProfileStore
) -> None:
    many = [f"u{row}" for row in range(200)]
    drawn = IdMap(many, "user").shuffled(np.arange(200))
    assert sorted(drawn.tolist()) == list(range(200))
    assert abs(np.corrcoef(drawn, np.arange(200))[0, 1]) < 0.2
    # users who come later, and stand elsewhere, change nothing
    grown = IdMap([*many[::-1], "new"], "user")
    order = [id for id in grown.ids(grown.shuffled(np.arange(201))) if id != "new"]
    assert order == [many[row] for row in drawn]
    described: list[str] = []
    for limit in (1, 2, 3):
        (users,) = make_profiles(view, profiler, store, ["user"], limit, progress=False).kinds
        assert users.stored == limit - 1
        assert set(described) < store.texts("user").keys()
        described = list(store.texts("user"))
    assert described  # u4, who has no history, takes nobody's place
    assert len(described) == 3


def test_commonest_prompts_count_over_the_rounds(
    view: TrainingView, in_rounds: Any, store: ProfileStore
) -> None:
    for prompts in (2, 3):  # the whole of round one; one of round two
        (items,) = make_profiles(view, in_rounds, store, ["item"], progress=False, prompts=prompts).kinds
        assert store.texts("item").keys() == set(list(ITEMS_IN_ROUNDS)[:prompts])
        assert items.distinct == prompts


def test_an_equal_prompt_in_another_round_is_no_other_prompt(
    view: TrainingView, profiler: Any, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    profiler.rounds = lambda view, kind: [np.array([row]) for row in range(4)]
    (users,) = make_profiles(view, profiler, store, kinds=["user"]).kinds
    assert (users.subjects, users.distinct, users.copied, users.generated, users.written) == (3, 2, 1, 2, 2)
    told = "round 2 of 4: 1 users, 1 distinct prompts; stored: 0, shared with others: 1, prompts to write: 0"
    assert told in capsys.readouterr().err


def test_dry_run_of_rounds_is_one_estimate(view: TrainingView, in_rounds: Any, store: ProfileStore) -> None:
    _, items = dry_run(view, in_rounds, None)
    assert (items.plan.subjects, items.plan.distinct, len(items.plan.prompts)) == (4, 4, 4)
    assert (items.new_tokens, items.sample) == (12, 4)
    answer = "B, for: likes A, B; likes A, B"
    assert [one.source for one in items.plan.missing[2:]] == [
        f"A, near: {answer} | {answer}",
        f"D, near: {answer} | {answer}",
    ]
    make_profiles(view, in_rounds, store, kinds=["user"], progress=False)
    make_profiles(view, in_rounds, store, kinds=["item"], limit=3, progress=False)
    (items,) = dry_run(view, in_rounds, store, kinds=["item"])
    assert (items.plan.subjects, items.plan.stored, items.sample) == (4, 3, 1)
    assert [one.source for one in items.plan.missing] == [ITEMS_IN_ROUNDS["i4"]]
    assert dry_run(view, in_rounds, None, limit=3)[1].plan.prompt_hashes.keys() == {"i2", "i3", "i1"}


def test_dry_run_counts_and_stores_nothing(view: TrainingView, profiler: Any, encoder: Any) -> None:
    users, items = dry_run(view, profiler, None, encoder=encoder)
    assert (users.plan.subjects, users.plan.distinct, len(users.plan.prompts)) == (3, 2, 2)
    # two prompts answered with 3 tokens each; they are no chats, so none is read by a model
    assert (users.new_tokens, users.prompt_tokens, users.sample) == (6, 0, 2)
    assert users.seconds > 0
    assert users.embed_seconds > 0
    assert items.plan.missing[2].source == "C, for: likes A, B", "quotes an answer of the calibration"


def test_dry_run_knows_what_is_stored(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    make_profiles(view, profiler, store, kinds=["user"], rows={"user": np.array([0])}, progress=False)
    profiler.answered.clear()
    (users,) = dry_run(view, profiler, store, kinds=["user"])
    assert (users.plan.stored, len(users.plan.copies), len(users.plan.prompts)) == (1, 1, 1)
    assert store.count() == 1
    make_profiles(view, profiler, store, kinds=["user"], limit=2, progress=False)
    (none,) = dry_run(view, profiler, store, kinds=["user"], limit=2)
    assert (none.seconds, none.sample) == (0.0, 0)


def test_examples_show_what_a_profile_was_made_from(
    view: TrainingView, profiler: Any, store: ProfileStore
) -> None:
    make_profiles(view, profiler, store, progress=False)
    store.add([Profile("user", "somebody else", "likes X", "h", "history")])
    users = examples(view, store, "user", 2)
    assert [(id, source) for id, source, _ in users] == [("u1", ["B", "A"]), ("u2", ["B", "A"])]
    assert examples(view, store, "item", 1)[0][1] == ["A"]


def test_a_model_is_loaded_only_to_be_asked(view: TrainingView, profiler: Any, store: ProfileStore) -> None:
    loaded = []
    profiler._generator = LazyGenerator("m", lambda: loaded.append(1) or Silent())
    make_profiles(view, profiler, store, kinds=["user"], progress=False)
    assert loaded == [1]
    loaded.clear()
    profiler._generator = LazyGenerator("m", lambda: loaded.append(1) or Silent())
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


def test_fault_19_what_another_run_wrote_while_this_one_waited_is_not_written_again(
    view: TrainingView, profiler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = type(profiler)()
    begin = ProfileStore.begin

    def wait(store: ProfileStore, **options: Any) -> None:
        if other not in waited:
            waited.append(other)
            with ProfileStore.open(store.folder, "f00d", "history") as first:
                make_profiles(view, other, first, progress=False)
        begin(store, **options)

    waited: list[Any] = []
    monkeypatch.setattr(ProfileStore, "begin", wait)
    with ProfileStore.open(tmp_path / "store", "f00d", "history") as store:
        make_profiles(view, profiler, store, progress=False)
        assert store.count() == 6
    assert (len(other.answered), profiler.answered) == (5, [])
