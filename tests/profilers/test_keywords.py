import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import ProfileKind
from reclm.errors import BadInput
from reclm.profilers.keywords import Keywords, KeywordsConfig

EVERY = np.arange(5)


def terms(view, kind: ProfileKind = "user", **settings):
    keywords = Keywords(KeywordsConfig(min_items=1, **settings)).fit(view)
    return {one.id: one.source for one in keywords.subjects(view, kind, EVERY, {})}


def test_terms_that_are_more_in_the_history_than_usual_come_first(view):
    found = terms(view)
    # idf over 5 items: alien, heat ln(6/2) + 1 = 2.10, genres ln(6/4) + 1 = 1.41. Alien and Heat are
    # √(2.10² + 2·1.41²) = 2.89 long: alien and heat .73, genres .49; the third film's three more words make its
    # genres .34. Of 7 clicks Alien has 3, Heat 2, the third 1. Ada's mean less the usual:
    #   heat .73/2 - 2·.73/7 = .16, horror .49 - 5·.49/7 = .14, crime .49/2 - (2·.49 + .34)/7 = .056,
    #   alien .73/2 - 3·.73/7 = .052, sci-fi .49/2 - (3·.49 + .34)/7 = -.01
    assert found["ada"] == "heat, horror, crime, alien, sci-fi."
    assert found["ada"] == found["bob"]
    assert "eve" not in found


def test_the_number_of_terms_and_the_history_are_limited(view):
    assert terms(view, terms=3)["ada"] == "heat, horror, crime."
    assert terms(view, history=1)["ada"] == "heat, crime, horror."


def test_item_terms_are_those_of_its_text(view):
    found = terms(view, "item")
    assert found["f1"] == "heat, crime, horror."
    assert "f4" not in found


def test_words_within_a_longer_term_are_not_said_again(view):
    view = view.__class__(
        **{
            **view.__dict__,
            "item_text": pa.table({"title": ["star trek"] * 2 + ["star wars"] * 2 + ["the of"]}),
            "text_template": "",
        }
    )
    assert terms(view, "item")["f0"] in {"star trek.", "trek, star."}


def test_write_yields_finished_profiles(view):
    keywords = Keywords(KeywordsConfig(min_items=1)).fit(view)
    profiles = list(keywords.write(keywords.subjects(view, "user", EVERY, {})))
    assert [(one.id, one.model, one.prompt_tokens, one.finish_reason) for one in profiles] == [
        (user, "keywords", 0, "none") for user in ("ada", "bob", "cyd")
    ]
    assert profiles[0].prompt_hash == profiles[1].prompt_hash != profiles[2].prompt_hash


def test_no_text_at_all_is_one_line(view):
    empty = view.__class__(
        **{**view.__dict__, "item_text": pa.table({"title": [""] * 5}), "text_template": ""}
    )
    with pytest.raises(BadInput):
        Keywords(KeywordsConfig()).fit(empty)


def test_save_and_load(view, tmp_path):
    Keywords(KeywordsConfig(terms=3)).save(tmp_path / "k")
    assert Keywords.open(tmp_path / "k").config == KeywordsConfig(terms=3)
