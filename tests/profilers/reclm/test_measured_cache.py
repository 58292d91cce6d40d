"""Cached measurements: what is not that of these subjects is measured again."""

import json
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter

from reclm.profilers.reclm.measure import _COUNTS, Measurement

ANSWERS = TypeAdapter(Annotated[list[bool], Field(min_length=2, max_length=2)])


@pytest.mark.parametrize(
    ("made", "value", "cached"),
    [
        *((ANSWERS, [True, False], text) for text in ("", "[", "\0", "null", "[true]", "[1, 0]", "[" * 9000)),
        *(
            (_COUNTS, {"own": [1, 2]}, text)
            for text in ("[]", '{"own": [3, 2]}', '{"own": [1]}', '{"own": 1}')
        ),
    ],
)
def test_a_damaged_cache_is_measured_again(tmp_path, made, value, cached) -> None:
    tuning: Any = SimpleNamespace(config=None, folder=tmp_path)
    measurement = Measurement(tuning)
    measurement.folder.mkdir()
    file = measurement.folder / "one.json"
    file.write_text(cached)
    plain = json.loads(json.dumps(value))
    assert json.loads(json.dumps(measurement._cached("one", made, lambda: value))) == plain
    assert json.loads(file.read_text()) == plain
    found = measurement._cached("one", made, lambda: pytest.fail("measured once more"))
    assert json.loads(json.dumps(found)) == plain
