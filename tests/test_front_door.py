"""The front door as a stranger meets it: the first script of the documentation, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import reclm
from torch import nn

data = reclm.load_dataset("ml-100k")              # or reclm.Dataset.from_frames(clicks, items): pandas, polars, Arrow
profiles = reclm.write_profiles(data, "zero-shot", limit=50)       # shows progress, resumes, returns Profiles
result = reclm.compare("lightgcn", data, profiles, seeds=2, controls=True, epochs=5)
print(result.verdict); result.table(); result.to_html("report.html")
model = reclm.fit("lightgcn", data, profiles)
model.recommend("196", k=10)                       # a table with titles and scores
model.save("my-model"); reclm.load_model("my-model").recommend(history=["50", "181"], k=5)

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.user_embedding = nn.Embedding(data.n_users, 64)
        self.item_embedding = nn.Embedding(data.n_items, 64)
reclm.augment(Mine(), profiles, users="user_embedding", items="item_embedding")
"""
"""As it stands in the documentation."""

QUICK = {
    "limit=50": "limit=2",
    "seeds=2, controls=True, epochs=5": "seeds=1, controls=False, epochs=1",
    'fit("lightgcn", data, profiles)': 'fit("lightgcn", data, profiles, epochs=1)',
}

LOOK = """
import pandas as pd
top = model.recommend("196", k=10)
assert list(top.columns[:5]) == ["user", "rank", "item", "title", "score"] and len(top) == 10
again = reclm.load_model("my-model").recommend("196", k=10)
pd.testing.assert_frame_equal(top, again)
assert len(reclm.load_model("my-model").recommend(history=["50", "181"], k=5)) == 5
table = result.table()
assert isinstance(table, pd.DataFrame) and len(table)
assert set(result.verdict.answers.values()) <= {"helped", "hurt", "no difference shown", "not decided"}
for thing in (data, profiles, result, model, result.verdict):
    assert 0 < len(repr(thing)) < 2000
for thing in (data, profiles, result, model):
    assert thing._repr_html_()
"""
"""What the script shows."""


def run(script: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RECLM_HOME"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip()
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} == {"reclm-home", "report.html", "my-model"}


@pytest.mark.real_model
def test_the_script_with_few_of_everything(tmp_path: Path) -> None:
    script = SCRIPT
    for words, fewer in QUICK.items():
        assert words in script
        script = script.replace(words, fewer)
    run(script + LOOK, tmp_path)


@pytest.mark.slow
@pytest.mark.real_model
def test_the_script_as_it_stands(tmp_path: Path) -> None:
    run(SCRIPT + LOOK, tmp_path)


def test_the_workspace_is_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextvars import copy_context

    import reclm
    from reclm.testing import checkerboard

    def choose() -> None:
        monkeypatch.delenv("RECLM_HOME", raising=False)
        monkeypatch.chdir(tmp_path)
        assert reclm.workspace() == Path("reclm-home")
        monkeypatch.setenv("RECLM_HOME", "elsewhere")
        assert reclm.workspace() == Path("elsewhere")
        assert reclm.workspace(tmp_path / "mine") == tmp_path / "mine"
        checkerboard().save(tmp_path / "mine" / "datasets" / "board")
        assert reclm.load_dataset("board").n_users == checkerboard().n_users
        assert "board" in set(reclm.list_datasets().name)

    copy_context().run(choose)
