"""Every leak that is planted ends the run, and clean data and profiles pass."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reclm.benchmarks.leaks import check, check_time
from reclm.data.dataset import Dataset, Interactions, ProfileKind, Protocol, TrainingView
from reclm.errors import Leak
from reclm.profilers.keywords import Keywords, KeywordsConfig
from reclm.profilers.tuning.run_folder import ABOUT, About
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.profiles.run import make_profiles
from reclm.profiles.store import SCHEMA, ProfileStore
from reclm.profiles.tables import upsert
from reclm.testing import checkerboard

DATA = checkerboard()
PAIR = Interactions(DATA.train.user_idx[:1], DATA.train.item_idx[:1])


class Histories(Profiler):
    """Users by what they chose, items by what is said of their users; both by title."""

    needs_model = False

    def fit(self, view: TrainingView) -> "Histories":
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        titles = view.item_text.column("title").to_pylist()
        for row, one in zip(idx.tolist(), view.idmap(kind).ids(idx), strict=True):
            history = view.history(kind, row)
            if kind == "user":
                said = [titles[item] for item in view.train.item_idx[history]]
            else:
                users = view.users.ids(view.train.user_idx[history])
                said = [
                    titles[row],
                    *(known["user"][user] for user in users if user in known.get("user", {})),
                ]
            if said:
                text = "; ".join(said)
                yield Subject(kind, one, hashlib.sha256(f"{kind} {text}".encode()).hexdigest()[:32], text)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        for one in subjects:
            yield Profile(one.kind, one.id, str(one.source), one.prompt_hash, "histories")


def written(folder: Path, view: TrainingView, profiler: Profiler | None = None) -> ProfileStore:
    with ProfileStore.open(folder / "store", view.fingerprint, "histories", "checkerboard") as store:
        make_profiles(view, (profiler or Histories()).fit(view), store, progress=False)
    return store


def joined(one: Interactions, other: Interactions) -> Interactions:
    return Interactions(
        np.concatenate([one.user_idx, other.user_idx]), np.concatenate([one.item_idx, other.item_idx])
    )


def leaky(data: Dataset = DATA) -> TrainingView:
    """A view that has the test part, too, and claims to be that of the data set."""
    whole = replace(data, train=joined(data.train, data.test))
    return replace(whole.view(), fingerprint=data.fingerprint)


def test_clean_data_and_profiles_pass_and_it_is_said_what_was_checked(tmp_path: Path) -> None:
    said = check(DATA, written(tmp_path, DATA.view()), Histories())
    assert said == [
        "full-shot: no user has a test item in train or valid",
        "zero-shot: no user has a test item in train or valid",
        "zero-shot: no candidate has an interaction in training or validation",
        f"all 44 profiles carry this data set's fingerprint, {DATA.fingerprint}",
        "24 of 24 user profiles were looked at: 24 answer the prompt that the training part gives",
        "20 of 20 item profiles were looked at: 20 answer the prompt that the training part gives",
    ]


def test_without_profiler_the_prompts_are_said_not_to_be_compared(tmp_path: Path) -> None:
    assert "prompts were not compared" in check(DATA, written(tmp_path, leaky()))[-1]
    assert len(check(DATA)) == 3


def test_keywords_pass_and_leak_by_their_own_prompts(tmp_path: Path) -> None:
    titles = [f"{one * 3} {one * 4}" for one in "abcdefghijklmnopqrst"]
    data = replace(DATA, item_text=pa.table({"title": titles}))
    keywords = Keywords(KeywordsConfig(min_items=1, terms=20))
    store = written(tmp_path / "good", data.view(), keywords)
    assert any(
        "24 of 24 user profiles were looked at: 24 answer" in one for one in check(data, store, keywords)
    )
    store = written(tmp_path / "bad", leaky(data), keywords)
    with pytest.raises(Leak, match=r"profile of user .* answers another prompt"):
        check(data, store, keywords.fit(data.view()))


def test_profiles_made_with_the_test_part_are_found(tmp_path: Path) -> None:
    with pytest.raises(Leak, match="profile of user 'u0' answers another prompt"):
        check(DATA, written(tmp_path, leaky()), Histories())


def test_a_sample_is_drawn_of_many(tmp_path: Path) -> None:
    said = check(DATA, written(tmp_path, DATA.view()), Histories(), sample=5)
    assert "5 of 24 user profiles were looked at: 5 answer the prompt that the training part gives" in said


def test_a_profile_of_a_user_without_history_is_found(tmp_path: Path) -> None:
    kept = DATA.train.user_idx != 3
    view = replace(DATA.view(), train=DATA.train.take(kept))
    store = written(tmp_path, DATA.view())
    data = replace(DATA, train=view.train)
    assert data.fingerprint != DATA.fingerprint
    store.info = store.info.model_copy(update={"fingerprint": data.fingerprint})
    rows = store.rows()
    place = rows.schema.get_field_index("fingerprint")
    upsert(
        store._table(),  # pyright: ignore[reportArgumentType]
        rows.set_column(place, SCHEMA.field(place), pa.array([data.fingerprint] * len(rows))),
    )
    with pytest.raises(Leak, match="profile of user 'u3' answers another prompt"):
        check(data, store, Histories())


def test_an_item_prompt_of_its_own_text_is_compared_one_that_quotes_cannot_always_be(tmp_path: Path) -> None:
    store = written(tmp_path, DATA.view())
    # i18 is cold: its prompt quotes nobody, so that another one was made of something else
    cold = store.get("item", "i18")
    assert cold is not None
    with store:
        store.add([replace(cold, prompt_hash="0" * 32)])
    with pytest.raises(Leak, match="profile of item 'i18' answers another prompt"):
        check(DATA, store, Histories())
    # the users' profiles were others when those of the items they chose were written
    with store:
        user = store.get("user", "u0")
        assert user is not None
        store.add([cold, replace(user, text="somebody else")])
    chosen = len(set(DATA.train.item_idx[DATA.train.user_idx == 0]))
    said = check(DATA, store, Histories())
    assert (
        f"20 of 20 item profiles were looked at: {20 - chosen} answer the prompt that the training part gives"
        in said
    )
    assert said[-1].startswith(f"{chosen} item profiles could not be compared")


def test_fingerprints_of_the_store_of_each_row_and_its_ids_are_this_data_sets(tmp_path: Path) -> None:
    store = written(tmp_path, DATA.view())
    other = checkerboard(seed=1)
    with pytest.raises(
        Leak, match=f"for data set {DATA.fingerprint}, not for checkerboard {other.fingerprint}"
    ):
        check(other, store)
    with store:
        store.add([Profile("user", "u99", "text", "hash", "model")])
    with pytest.raises(Leak, match="a profile of user 'u99', whom data set 'checkerboard' does not know"):
        check(DATA, store)
    row = store.rows("user").slice(0, 1).to_pylist()[0] | {"fingerprint": "beef"}
    upsert(store._table(), pa.Table.from_pylist([row], SCHEMA))  # pyright: ignore[reportArgumentType]
    with pytest.raises(Leak, match="written for data set beef"):
        check(DATA, store)


def test_what_a_profiler_was_tuned_on(tmp_path: Path) -> None:
    profiler = Histories()
    profiler.folder = tmp_path  # pyright: ignore[reportAttributeAccessIssue]
    assert len(check(DATA, None, profiler)) == 3

    def tuned_on(dataset: str, fingerprint: str) -> list[str]:
        about = About(dataset=dataset, fingerprint=fingerprint, model=None, weights="tiny")
        about.to_yaml(tmp_path / ABOUT)
        return check(DATA, None, profiler)

    assert "the profiler was tuned on this training part" in tuned_on("checkerboard", DATA.fingerprint)
    assert "cannot be told" in tuned_on("chess", "beef")[-1]
    with pytest.raises(Leak, match="was tuned on another split of checkerboard"):
        tuned_on("checkerboard", "beef")


def test_a_training_interaction_in_the_test_part_is_found() -> None:
    data = replace(DATA, test=joined(DATA.test, PAIR))
    with pytest.raises(Leak, match="full-shot: 1 interactions are in train and in test, as of user 'u0'"):
        check(data)
    # what recurs in validation tells nothing of the test part
    assert check(replace(DATA, valid=joined(DATA.valid, PAIR)))


def test_a_validation_interaction_in_the_test_part_is_found() -> None:
    data = replace(DATA, test=joined(DATA.test, DATA.valid))
    with pytest.raises(Leak, match="are in valid and in test"):
        check(data)
    # also where validation items stay candidates
    with pytest.raises(Leak, match="are in valid and in test"):
        check(replace(data, protocols=(replace(DATA.protocols[0], mask=("train",)),)))


def test_repeats_are_no_leak_where_a_protocol_asks_for_them() -> None:
    protocols = (Protocol("again", DATA.protocols[0].candidates, ()),)
    repeated = replace(DATA, test=joined(DATA.test, PAIR), protocols=protocols)
    assert check(repeated) == []


def test_an_interaction_with_an_item_that_no_protocol_ranks_is_no_leak() -> None:
    protocols = (Protocol("few", np.setdiff1d(DATA.protocols[0].candidates, PAIR.item_idx)),)
    assert check(replace(DATA, test=joined(DATA.test, PAIR), protocols=protocols))


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_cold_candidate_that_was_learned_from_is_found(part: str) -> None:
    pair = Interactions(np.array([1]), np.array([18]))
    data: Dataset = replace(DATA, **{part: joined(DATA.split(part), pair)})  # pyright: ignore[reportArgumentType]
    with pytest.raises(Leak, match=r"zero-shot: 1 of its 4 candidates .* as item 'i18'"):
        check(data)


def timed(times: list[list[int]], **more: object) -> Dataset:
    """The data set with these times of the first interactions of training, validation and test."""
    parts = {
        name: replace(
            Interactions(part.user_idx[: len(time)], part.item_idx[: len(time)]), timestamp=np.array(time)
        )
        for name, part, time in zip(
            ("train", "valid", "test"), (DATA.train, DATA.valid, DATA.test), times, strict=True
        )
    }
    return replace(DATA, **parts, **more)  # pyright: ignore[reportArgumentType]


def test_training_that_knows_the_future_is_found_where_the_split_is_by_time_or_it_is_asked() -> None:
    assert check_time(timed([[1, 2], [3], [4, 5]])) in check(timed([[1, 2], [3], [4, 5]], by_time=True))
    assert check_time(timed([[1, 2], [], [2, 5]]))
    for times, late in [([[1, 5], [3], [6]], 1), ([[1, 2], [5], [4, 6]], 1), ([[5, 6], [], [4, 6]], 2)]:
        with pytest.raises(Leak) as error:
            check(timed(times, by_time=True))
        assert error.value.value == late
    assert check(
        timed([[1, 5], [3], [6]])
    )  # each user's newest are held out: nobody asks for the order of all


def test_a_split_per_user_fails_the_check_of_time() -> None:
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12)
    frame = {"user_id": user, "item_id": item, "timestamp": rng.permutation(120)}
    table = pa.table(frame)
    with pytest.raises(Leak) as error:
        check_time(Dataset.from_frames(table))
    assert error.value.remedy == "--split time"
    assert check_time(Dataset.from_frames(table, split="time"))
    with pytest.raises(Leak):
        check_time(Dataset.from_frames(table.drop(["timestamp"])))
