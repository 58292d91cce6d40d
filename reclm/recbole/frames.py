"""pandas as RecBole 1.2.0 knows it: string columns of objects, ``agg(len)`` by element, filling in place."""

from typing import Any

import numpy as np
import pandas as pd


class Column(pd.Series):
    """A series whose ``agg(len)`` gives each element's length, as before pandas 3; there it is the series' own."""

    @property
    def _constructor(self) -> Any:
        return Column

    def agg(self, func: Any = None, axis: Any = 0, *args: Any, **options: Any) -> Any:
        """See the class."""
        return self.map(len) if func is len else super().agg(func, axis, *args, **options)


class Frame(pd.DataFrame):
    """A data frame of such columns."""

    @property
    def _constructor(self) -> Any:
        return Frame

    @property
    def _constructor_sliced(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Column


def read_csv(*args: Any, **options: Any) -> Frame:
    """``pandas.read_csv`` with object columns for strings, and empty ones in place of missing sequences."""
    frame = Frame(pd.read_csv(*args, **options))
    for name in frame.columns:
        if options["dtype"][name] is str:
            text = frame[name].astype(object)
            frame[name] = text.where(text.notna(), "" if name.endswith("_seq") else None)
    return frame


def merge(*args: Any, **options: Any) -> Frame:
    """``pandas.merge`` to such a frame."""
    return Frame(pd.merge(*args, **options))


def fill_nan(self: Any) -> None:
    """``Dataset._fill_nan`` of RecBole, with assignments where it fills a column in place, which pandas 3 does not do.

    Missing tokens become 0 (padding), missing numbers the column's mean, missing sequences empty ones.
    """
    from recbole.utils import FeatureType

    for name in self.feat_name_list:
        feat = getattr(self, name)
        for field in feat:
            kind = self.field2type[field]
            if kind == FeatureType.TOKEN:
                feat[field] = feat[field].fillna(0)
            elif kind == FeatureType.FLOAT:
                feat[field] = feat[field].fillna(feat[field].mean())
            else:
                empty = np.array([], np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64)
                feat[field] = [empty if isinstance(value, float) else value for value in feat[field]]


VIEW = {"read_csv": read_csv, "merge": merge}
"""What RecBole is to find in place of pandas' own."""
