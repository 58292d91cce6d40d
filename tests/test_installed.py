"""The wheel where users meet it: elsewhere, in the clone's folder, with the core alone, beside its namesake."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reclm.errors import EXTRAS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(built_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in."""
    return unpack(built_wheel, tmp_path_factory.mktemp("site"))


def unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(site: Path, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the packages of ``site`` before all others but those of ``cwd``."""
    environment = os.environ | {"PYTHONPATH": str(site), "RECLM_HOME": str(site.parent / "home")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


FILES = "import reclm.backbones.lightgcn as module, reclm; print(module.__file__, reclm.__file__, sep='\\n')"


@pytest.mark.parametrize("place", ["elsewhere", "the clone"])
def test_backbones_are_those_of_the_reclm_that_is_imported(site: Path, tmp_path: Path, place: str) -> None:
    clone = place == "the clone"
    run = python(site, ROOT if clone else tmp_path, FILES)
    assert run.returncode == 0, run.stderr
    backbone, face = map(Path, run.stdout.split())
    assert face == (ROOT if clone else site) / "reclm" / "__init__.py"
    assert backbone == (ROOT if clone else site / "reclm") / "backbones" / "lightgcn.py"


@pytest.mark.parametrize("place", ["elsewhere", "the clone"])
def test_the_command_line_runs(site: Path, tmp_path: Path, place: str) -> None:
    code = "import runpy, sys; sys.argv = ['reclm', 'bench', '--backbone', 'ligthgcn']; "
    code += "runpy.run_module('reclm', run_name='__main__')"
    run = python(site, ROOT if place == "the clone" else tmp_path, code)
    assert (run.returncode, run.stdout) == (2, "")
    assert "'lightgcn'" in run.stderr


def test_files_that_the_namesake_overwrote_are_one_clear_line(built_wheel: Path, tmp_path: Path) -> None:
    site = unpack(built_wheel, tmp_path / "site")
    (site / "reclm" / "__init__.py").write_text('__version__ = "0.0.6"\n')
    (site / "reclm-0.0.6.dist-info").mkdir()
    run = python(site, tmp_path, "from reclm.cli import main; main()")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert "pip uninstall reclm" in run.stderr
    run = python(site, tmp_path, "import reclm.data.dataset")
    assert run.stderr.splitlines()[-1].startswith("ImportError: another project's package 'reclm'")


def test_the_namesake_beside_an_intact_installation_is_a_warning(built_wheel: Path, tmp_path: Path) -> None:
    site = unpack(built_wheel, tmp_path / "site")
    (site / "reclm-0.0.6.dist-info").mkdir()
    run = python(site, tmp_path, "import reclm; print(reclm.Dataset.__name__)")
    assert (run.returncode, run.stdout) == (0, "Dataset\n")
    assert "pip uninstall reclm" in run.stderr


CORE_ONLY = f"""
import sys
from importlib.machinery import PathFinder
class Hider(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {sorted(module for modules in EXTRAS.values() for module in modules)!r}
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Hider if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""Hides the packages of all extras."""


def test_the_core_fits_and_recommends_without_any_extra(site: Path, tmp_path: Path) -> None:
    code = CORE_ONLY + (
        "import numpy as np, pandas as pd, reclm\n"
        "rows = [(f'u{u}', f'i{i}', u * i) for u in range(8) for i in range(12) if (u + i) % 2]\n"
        "clicks = pd.DataFrame(rows, columns=['user_id', 'item_id', 'timestamp'])\n"
        "data = reclm.Dataset.from_frames(clicks, held_out_items=0)\n"
        "model = reclm.fit('lightgcn', data, items='id', epochs=1, progress=False)\n"
        "print(len(model.recommend('u1', k=3)))\n"
    )
    run = python(site, tmp_path, code)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "3\n"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["profile", "--dataset", "{}"], "llm"), (["tune", "--dataset", "{}"], "tune")],
    ids=["profile", "tune"],
)
def test_a_missing_extra_is_one_line_with_the_command(
    site: Path, tmp_path: Path, arguments: list[str], extra: str
) -> None:
    from reclm.testing import checkerboard

    checkerboard().save(tmp_path / "data")
    words = [word.format(tmp_path / "data") for word in arguments]
    code = f"{CORE_ONLY}\nfrom reclm.cli import main\nsys.argv = ['reclm', *{words!r}]\nmain()"
    run = python(site, tmp_path, code)
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: ")
    assert f"pip install 'reclm-toolkit[{extra}]'" in run.stderr.splitlines()[-1]
