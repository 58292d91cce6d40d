"""Options read from YAML and from ``--set``."""

import pytest

from reclm.config import parse_settings, read_yaml
from reclm.errors import BadInput

BAD = [
    '!!int ""',
    "!!timestamp x",
    "!!bool x",
    "!!float x",
    "!!binary x",
    "[" * 3000,
    "&a [*a]",
    "&a {b: *a}",
]
LAUGHS = "&a [x, x, x, x, x, x, x, x, x]"
for below, above in zip("abcdefg", "bcdefgh", strict=True):
    LAUGHS = f"[{LAUGHS}, &{above} [{', '.join([f'*{below}'] * 9)}]]"


@pytest.mark.parametrize("value", [*BAD, LAUGHS, "9" * 5000], ids=lambda value: value[:20])
def test_fault_36_what_is_no_yaml_is_one_line(tmp_path, value):
    path = tmp_path / "x.yaml"
    path.write_text(f"key: {value}\n")
    with pytest.raises(BadInput) as caught:
        read_yaml(path)
    assert caught.value.where == path
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [*BAD, LAUGHS], ids=lambda value: value[:20])
def test_fault_36_what_is_no_yaml_is_a_string_in_set(value):
    assert parse_settings([f"key={value}"]) == {"key": value}


def test_an_empty_path_is_no_folder():
    from reclm.data.readers.table import Table

    with pytest.raises(BadInput) as caught:
        Table.Config.build({"items": ""})
    assert (caught.value.value, caught.value.where) == ("", "items")


def test_a_file_of_options_holds_a_mapping():
    from reclm.data.readers.table import Table

    with pytest.raises(BadInput) as caught:
        Table.Config.build(5)  # pyright: ignore[reportArgumentType]
    assert caught.value.value == 5


def test_aliases_that_repeat_a_value_are_read(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: &rows [1, 2]\nb: *rows\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("text", ["lr: 1\nlr: 2\n", "a:\n  lr: 1\n  'lr': 2\n", "rows:\n- {a: 1, a: 1}\n"])
def test_fault_36_a_key_that_stands_twice_is_refused(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_yaml(path)
    assert caught.value.where == path


def test_a_merged_mapping_may_be_changed(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, y: 3}\n")
    assert read_yaml(path)["c"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("settings", [["a"], ["=1"], ["a=1", "a.b=2"], ["a.b=2", "a=1"]])
def test_an_error_of_a_setting_names_the_option_that_it_was_given_by(settings):
    with pytest.raises(BadInput) as caught:
        parse_settings(settings, "--engine-set")
    assert (caught.value.where, caught.value.value) == ("--engine-set", settings[-1])
    assert "--set" not in str(caught.value)
