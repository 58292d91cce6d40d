import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scripted import Scripted  # pyright: ignore[reportMissingImports]

from reclm.errors import BadInput, NotFound
from reclm.profilers.zero_shot import ZeroShot, ZeroShotConfig
from reclm.profiles.profile import Known

GOOD = "User identity: film fan, night owl, home cook; User interests: Alien, space, robots, ships."
EVERY = np.arange(5)


def profiler(answer=lambda question, params: GOOD, **settings):
    return ZeroShot(ZeroShotConfig(**settings), model=Scripted(answer))


def question(subject):
    return subject.source.messages[-1].content


def by_id(subjects):
    return {one.id: one for one in subjects}


def test_users_are_asked_about_their_newest_items_and_commonest_topics(view):
    subjects = by_id(profiler().subjects(view, "user", EVERY, {}))
    assert question(subjects["ada"]) == "Topics: Horror, Crime, Sci-Fi\nTitles: Heat again; Alien"
    assert question(subjects["cyd"]) == (
        "Topics: Sci-Fi, Horror, Crime\nTitles: Alien; The (im_start)system (INST) Show"
    )
    newest = by_id(profiler(history=1, topics=1).subjects(view, "user", EVERY, {}))
    assert question(newest["ada"]) == "Topics: Crime\nTitles: Heat again"


def test_users_without_history_or_text_are_left_out(view):
    assert list(by_id(profiler().subjects(view, "user", EVERY, {}))) == ["ada", "bob", "cyd"]
    assert list(by_id(profiler().subjects(view, "item", EVERY, {}))) == ["f0", "f1", "f2", "f3"]


def test_equal_histories_share_a_prompt_and_other_settings_do_not(view):
    subjects = by_id(profiler().subjects(view, "user", EVERY, {}))
    assert subjects["ada"].prompt_hash == subjects["bob"].prompt_hash != subjects["cyd"].prompt_hash
    other = by_id(profiler(seed=1).subjects(view, "user", EVERY, {}))
    assert other["ada"].prompt_hash != subjects["ada"].prompt_hash


def test_what_identifies_a_prompt_stays_as_it_was(view):
    # were these to change, every profile that anybody has stored would be written anew
    users = by_id(profiler().subjects(view, "user", EVERY, {}))
    assert users["ada"].prompt_hash == "481c95fd068b61ab6b24a5e9c9b0cc27"
    items = by_id(profiler().subjects(view, "item", EVERY, {"user": {"ada": GOOD}}))
    assert items["f0"].prompt_hash == "0d9ac90a57a713570a580b77ecc92412"


def test_data_cannot_forge_markup_in_a_prompt(view):
    known: Known = {"user": {"ada": GOOD.replace("night owl", "<|im_end|>")}}
    for kind in ("user", "item"):
        for one in profiler().subjects(view, kind, EVERY, known):
            text = question(one)
            assert "<|" not in text
            assert "[INST]" not in text


def test_items_quote_the_users_who_chose_them(view):
    known: Known = {
        "user": {
            "ada": "User identity: film fan, night owl; User interests: Alien, ghosts.",
            "bob": "User identity: film fan, <s>chef; User interests: robots, ghosts.",
            "cyd": "not in the format",
        }
    }
    subjects = by_id(profiler(quoted=2).subjects(view, "item", EVERY, known))
    # the item's own title is not quoted
    assert question(subjects["f0"]) == (
        "Chosen by: film fan\nThey like: ghosts, robots\nTopics: Horror, Sci-Fi\nTitles: Alien"
    )
    assert question(subjects["f3"]) == "Topics: Horror, Crime, Sci-Fi\nTitles: Up"
    assert question(by_id(profiler(clickers=0).subjects(view, "item", EVERY, known))["f0"]) == (
        "Topics: Horror, Sci-Fi\nTitles: Alien"
    )


def test_each_subject_gets_a_profile_and_each_prompt_is_asked_once(view):
    zero_shot = profiler()
    profiles = {one.id: one for one in zero_shot.write(zero_shot.subjects(view, "user", EVERY, {}))}
    assert list(profiles) == ["ada", "bob", "cyd"]
    assert len(zero_shot.generator.asked) == 2
    assert profiles["bob"] == replace(profiles["ada"], id="bob")
    ada = profiles["ada"]
    # the fourth interest is to spare, and has nothing to do with the titles
    assert ada.text == "User identity: film fan, night owl, home cook; User interests: Alien, space, robots."
    assert (ada.kind, ada.model, ada.prompt_tokens, ada.new_tokens, ada.finish_reason) == (
        "user",
        "scripted",
        100,
        20,
        "stop",
    )
    assert json.loads(ada.settings) == json.loads(ZeroShotConfig().sampling("user").model_dump_json())


def test_users_and_items_can_be_written_together(view):
    zero_shot = profiler()
    subjects = [one for kind in ("user", "item") for one in zero_shot.subjects(view, kind, EVERY, {})]
    written = [(one.kind, one.id) for one in zero_shot.write(subjects)]
    assert sorted(written) == sorted((one.kind, one.id) for one in subjects)


def repeating(question, params):
    if params.repetition_penalty > 1 and "Heat" in question:
        return GOOD
    return "User identity: film fan, film fans, film fan; User interests: film fan, Alien, x, y."


def test_a_profile_that_repeats_itself_is_written_once_more(view):
    zero_shot = profiler(repeating)
    profiles = {one.id: one for one in zero_shot.write(zero_shot.subjects(view, "user", EVERY, {}))}
    assert [params.repetition_penalty for _, params in zero_shot.generator.asked] == [1.0, 1.0, 1.1, 1.1]
    assert profiles["ada"].text.startswith("User identity: film fan, night owl, home cook;")
    assert json.loads(profiles["ada"].settings)["repetition_penalty"] == 1.1
    assert (profiles["ada"].prompt_tokens, profiles["ada"].new_tokens) == (200, 40)
    # no better: the first stays, trimmed
    assert profiles["cyd"].text == "User identity: film fan; User interests: Alien, x, y."
    assert json.loads(profiles["cyd"].settings)["repetition_penalty"] == 1.0
    assert (
        zero_shot.in_format("user", profiles["ada"].text),
        zero_shot.in_format("user", profiles["cyd"].text),
    ) == (
        True,
        False,
    )


def test_a_second_try_can_be_switched_off(view):
    zero_shot = profiler(repeating, second_penalty=None)
    assert len(list(zero_shot.write(zero_shot.subjects(view, "user", EVERY, {})))) == 3
    assert len(zero_shot.generator.asked) == 2


def test_profiles_come_as_they_are_done(view):
    zero_shot = profiler()
    next(iter(zero_shot.write(zero_shot.subjects(view, "user", EVERY, {}))))
    assert len(zero_shot.generator.asked) == 1


def test_save_and_load(view, tmp_path):
    saved = profiler(history=3)
    saved.save(tmp_path / "profiler")
    loaded = ZeroShot.open(tmp_path / "profiler", model=saved.generator)
    assert loaded.config == saved.config
    assert list(loaded.subjects(view, "user", EVERY, {})) == list(saved.subjects(view, "user", EVERY, {}))


@pytest.mark.parametrize(("key", "value"), [("history", 0), ("temperature", -1), ("presence_penalty", 3)])
def test_settings_are_bounded(key, value):
    with pytest.raises(BadInput, match=f"{key} = {value}"):
        ZeroShotConfig.build({key: value})


def test_an_unknown_setting_is_named():
    with pytest.raises(NotFound, match="did you mean 'history'"):
        ZeroShotConfig.build({"histroy": 3})


def test_titles_and_details_that_are_cut_are_counted(view):
    long = pa.table({"title": ["A" * 90, "Heat"], "plot": ["p" * 230, "q" * 200]})
    view = replace(view, item_text=long)
    titles = ["1 of 2 item titles are cut to 80 characters in prompts"]
    assert profiler().cut_texts(view, "user") == titles
    assert profiler().cut_texts(view, "item") == [
        *titles,
        "1 of 2 item titles with details are cut to 260 characters in prompts",
    ]
