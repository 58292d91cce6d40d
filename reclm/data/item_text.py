"""The text fields of items, put into one text by a template."""

import re

import pyarrow as pa
import pyarrow.compute as pc

from reclm.errors import unknown

_SECTION = re.compile(r"\[([^\]]*)\]|([^\[]+)")
_FIELD = re.compile(r"\{([^{}]+)\}")


def template_fields(template: str) -> list[str]:
    """Return the fields that a template names, each once."""
    return list(dict.fromkeys(_FIELD.findall(template)))


def has_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Tell which texts hold more than blanks."""
    return pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(column, "")), "")


def any_text(fields: pa.Table) -> bool:
    """Tell whether any text of a table of strings holds more than blanks."""
    return any(pc.any(has_text(column)).as_py() for column in fields.columns if len(column))


def take_rows(fields: pa.Table, rows: pa.Array) -> pa.Table:
    """Return some rows of a table of texts, which keeps its number of rows also where it has no columns."""
    return fields.take(rows) if fields.num_columns else pa.table({"row": rows}).select([])


def item_texts(fields: pa.Table, template: str = "") -> list[str]:
    """Return one text an item, in row order, of ``fields``, a column of strings each.

    >>> item_texts(pa.table({"title": ["Alien", "Heat"], "year": ["1979", ""]}), "{title}[ ({year})]")
    ['Alien (1979)', 'Heat']

    ``template`` names fields in braces; a section in square brackets is left out where its field is empty. By default
    it is all fields, joined by ``". "``.
    """
    known = fields.column_names
    for name in template_fields(template):
        if name not in known:
            raise unknown("item text field", name, known)
    parts = _SECTION.findall(template)
    sections = [(bool(optional), _FIELD.split(optional or fixed)) for optional, fixed in parts]
    # a column may be called anything: names are not read out of a template that is made of them
    sections = sections or [(True, [". ", name, ""]) for name in known]
    columns = {name: fields.column(name).to_pylist() for _, pieces in sections for name in pieces[1::2]}

    def text(row: int) -> str:
        parts = []
        for optional, pieces in sections:
            values = [" ".join((columns[name][row] or "").split()) for name in pieces[1::2]]
            if optional and not all(values):
                continue
            parts += [a + b for a, b in zip(pieces[0::2], [*values, ""], strict=True)]
        return "".join(parts).lstrip(" .,;:").rstrip()

    return [text(row) for row in range(fields.num_rows)]


def joined_text(text: str, profile: str) -> str:
    """Return an item's text and its profile as one text; where one is empty, the other.

    >>> joined_text("Alien (1979)", "Mood: dark.")
    'Alien (1979). Mood: dark.'
    """
    return f"{text.rstrip(' .')}. {profile}" if text and profile else text or profile
