"""RecBole runs beside today's libraries, and leaves them as they are."""

import os
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from reclm.errors import MissingExtra
from reclm.recbole import compat
from reclm.recbole.compat import as_a_library, patch


def test_nothing_outside_recbole_changes():
    libraries = np, sparse, torch, pd
    before = [dict(vars(one)) for one in libraries]
    patch()
    patch()
    from recbole.config import Config

    Config(model="BPR", dataset="x")
    for library, names in zip(libraries, before, strict=True):
        changed = {name for name in names if vars(library).get(name) is not names[name]}
        assert not changed
    assert not hasattr(np, "float_")
    assert not hasattr(sparse.dok_matrix, "_update")


def test_recbole_sees_the_names_it_uses():
    patch()
    views = vars(sys.modules["recbole.model.general_recommender.lightgcn"])
    assert views["np"].float is np.float64
    assert views["np"].float32 is np.float32
    matrix = views["sp"].dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 2): 1.0, (1, 0): 4.0})
    assert matrix.toarray().tolist() == [[0, 0, 1], [4, 0, 0]]
    assert views["torch"].nn is torch.nn


def test_settings_are_not_evaluated():
    patch()
    literal = vars(sys.modules["recbole.config.configurator"])["eval"]
    assert literal("['a', 1e-3]") == ["a", 1e-3]
    for text in ("LightGCN", "__import__('os').getcwd()", "a b"):
        with pytest.raises(SyntaxError):
            literal(text)


def test_missing_values_are_filled(tmp_path):
    patch()
    from recbole.config import Config
    from recbole.data import create_dataset

    folder = tmp_path / "holes"
    folder.mkdir()
    (folder / "holes.inter").write_text("user_id:token\titem_id:token\nu\ta\nu\tb\nv\ta\n")
    (folder / "holes.item").write_text(
        "item_id:token\tclass:token_seq\tyear:token\tprice:float\tvector:float_seq\n"
        "a\tx y\t1999\t1\t.5 2\nb\t\t\t\t\n"
    )
    columns = {"inter": ["user_id", "item_id"], "item": "*"}
    settings = {"data_path": str(tmp_path), "load_col": columns}
    with as_a_library(tmp_path):
        data = create_dataset(Config(model="BPR", dataset="holes", config_dict=settings))
    # rows: padding, a, b
    assert data.item_feat["price"].tolist() == [1, 1, 1]  # the mean of what is known
    assert data.item_feat["year"].tolist() == [0, 1, 0]
    assert [list(one) for one in data.item_feat["class"]] == [[], [1, 2], []]
    assert [list(one) for one in data.item_feat["vector"]] == [[], [0.5, 2], []]


def test_a_checkpoint_may_hold_weights_and_settings_only(tmp_path):
    patch()
    load = vars(sys.modules["recbole.trainer.trainer"])["torch"].load
    torch.save({"call": os.getcwd}, tmp_path / "odd.pth")
    with pytest.raises(Exception, match="getcwd"):
        load(tmp_path / "odd.pth")
    with pytest.raises(Exception, match="getcwd"):
        load(tmp_path / "odd.pth", weights_only=False)


def test_the_process_is_given_back_as_it_was(tmp_path, monkeypatch):
    patch()
    from recbole.config import Config
    from recbole.utils import init_seed

    monkeypatch.setattr(sys, "argv", ["prog", "--epochs=7"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")

    def drawn() -> tuple[list[int], list[int]]:
        return np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    state = drawn()
    with as_a_library(tmp_path):
        config = Config(model="BPR", dataset="x", config_dict={"gpu_id": "3"})
        init_seed(1, True)
        assert drawn() != state
    assert drawn() == state
    assert config["epochs"] == 300
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(compat, "version", lambda _: "1.2.1")
    with pytest.raises(
        MissingExtra, match=r"RecBole 1\.2\.1 .* supports 1\.2\.0; run: pip install recbole==1\.2\.0$"
    ):
        patch()


def test_without_recbole_or_one_of_its_packages(monkeypatch):
    def absent(_):
        raise compat.PackageNotFoundError

    def broken(_):
        raise ModuleNotFoundError("No module named 'colorlog'", name="colorlog")

    monkeypatch.setattr(compat.importlib, "import_module", broken)
    with pytest.raises(
        MissingExtra, match=r"RecBole needs the package 'colorlog', .*reclm-toolkit\[recbole\]"
    ):
        patch()
    monkeypatch.setattr(compat, "version", absent)
    with pytest.raises(MissingExtra, match=r"not installed; run: pip install reclm-toolkit\[recbole\]"):
        patch()
