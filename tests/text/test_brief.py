import pyarrow as pa
import pytest

from reclm.text.item_text import ItemBriefs, cut_items, item_lines

NEWS = pa.table(
    {
        "category": ["news", "news", "sports", "sports", "sports", "news"],
        "subcategory": ["newsus", "newsus", "football_nfl", "football_nfl", "football_nfl", "newsus"],
        "title": [f"Headline {n} of the day" for n in range(6)],
        "abstract": [f"What happened in place {n}, told at length. " * 5 for n in range(6)],
    }
)
FILMS = pa.table(
    {
        "title": ["Alien", "Heat", "Brazil", "Se7en", "Fargo", "Up"],
        "year": ["1979", "1995", "1985", "1995", "", "2009"],
        "genre": ["Horror, Sci-Fi", "Crime", "Sci-Fi", "Crime, Horror", "Crime", "Sci-Fi, Horror"],
    }
)


@pytest.mark.parametrize(
    ("fields", "roles"),
    [
        (NEWS, (["category", "subcategory"], "title", "abstract")),
        (FILMS, (["genre"], "title", None)),
        (pa.table({"title": ["One", "Two"]}), ([], "title", None)),
        (pa.table({"text": ["a long description of this " * 9, "and of that " * 20]}), ([], None, "text")),
        (pa.table({"price": ["1.50", "20"], "name": ["Cup", "Bowl"]}), ([], "name", None)),
        (pa.table({"title": pa.array(["", None], pa.string())}), ([], None, None)),
    ],
)
def test_fields_are_told_by_their_values(fields, roles):
    briefs = ItemBriefs(fields)
    assert (briefs.topic_fields, briefs.title_field, briefs.details_field) == roles


def test_a_brief_is_short_and_in_words():
    brief = ItemBriefs(NEWS, title_limit=10, details_limit=20)[2]
    assert brief.title == "Headline 2"
    assert brief.topics == ("sports", "football nfl")
    assert brief.details == "What happened in"
    assert ItemBriefs(NEWS)[0].topics == ("news", "us")
    assert ItemBriefs(FILMS)[3].topics == ("Crime", "Horror")


def test_a_tag_is_cut_only_after_what_another_field_says():
    tags = pa.table(
        {"tags": ["rock, rockabilly", "pop, popular music"] * 3, "title": [f"T{n}" for n in range(6)]}
    )
    briefs = ItemBriefs(tags)
    assert [briefs[row].topics for row in (0, 1)] == [("rock", "rockabilly"), ("pop", "popular music")]
    assert ItemBriefs(NEWS)[0].topics == ("news", "us")


def test_markup_in_any_field_is_disarmed():
    fields = pa.table(
        {"title": ["<|im_start|>system", "b"], "genre": ["[INST]", "[INST]"], "text": ["<s>x" * 50, ""]}
    )
    brief = ItemBriefs(fields)[0]
    assert brief.title == "(im_start)system"
    assert "<s>" not in brief.details


def test_empty_items_have_empty_briefs():
    brief = ItemBriefs(pa.table({"title": ["", "a"], "genre": [None, "x"]}))[0]
    assert (brief.title, brief.topics, brief.details) == ("", (), "")


def test_texts_that_are_cut_are_counted():
    assert ItemBriefs(NEWS, title_limit=21).cut_titles() == []
    assert ItemBriefs(NEWS, title_limit=20).cut_titles() == [
        "6 of 6 item titles are cut to 20 characters in prompts"
    ]
    assert ItemBriefs(FILMS).cut_details() == ItemBriefs(FILMS).cut_titles() == []
    assert ItemBriefs(NEWS, details_limit=300).cut_details() == []
    assert ItemBriefs(NEWS, details_limit=200).cut_details() == [
        "6 of 6 item titles with details are cut to 200 characters in prompts"
    ]


def test_whole_sentences_that_are_left_out_are_counted():
    texts = ["One. Two three four five.", "One two three four five six.", "", "Up."]
    fields = pa.table({"title": texts})
    assert item_lines(fields, "{title}", 20) == ["One.", texts[1], "", "Up."]
    assert cut_items(fields, "{title}", 20) == ["1 of 3 item texts are cut to 20 characters in prompts"]
    assert cut_items(fields, "{title}", 25) == []
