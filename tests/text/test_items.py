"""Item texts: every column is text by default, whatever it is called."""

import pyarrow as pa
import pytest

from reclm.errors import NotFound
from reclm.text.item_text import item_texts

ODD = pa.table({"Product Name": ["Cup", "Bowl"], "sub-category": ["kitchen", ""], "a[b]{c}": ["x", "y"]})


def test_columns_may_be_called_anything():
    assert item_texts(ODD) == ["Cup. kitchen. x", "Bowl. y"]
    assert item_texts(ODD, "{Product Name}[ ({sub-category})]") == ["Cup (kitchen)", "Bowl"]


def test_a_field_that_is_not_there_is_an_error_and_no_text():
    with pytest.raises(NotFound, match="unknown item text field 'Product-Name'; did you mean 'Product Name'"):
        item_texts(ODD, "{Product-Name}")
