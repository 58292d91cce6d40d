"""A profiler is tuned in a folder by one run at a time, with the options that were asked for."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from reclm import plugins
from reclm.config import Config
from reclm.data.dataset import TrainingView
from reclm.errors import BadInput, Busy, NotFound
from reclm.profiles.profiles import Profiles
from reclm.profiles.tune import tune, tuning_lock, tuning_settings


class Options(Config):
    epochs: int = Field(default=3, ge=1)
    stages: tuple[str, ...] = ("kd", "ppo")
    teacher: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it


class Tunable:
    """Notes what it is tuned with."""

    Config = Options
    tunable = True
    presets: ClassVar[dict[str, Any]] = {"cpu": {"epochs": 1}}

    def __init__(self, options: Options, model: str | None, folder: Path, encoder: Any) -> None:
        self.options, self.model, self.folder = options, model, folder

    def tuning(self, view: TrainingView) -> Any:
        return self

    def run(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "options").write_text(f"{self.model} {self.options.epochs} {self.options.stages}")


@pytest.fixture(autouse=True)
def tunable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "get", lambda kind, name: Tunable)


def test_the_options_reach_the_profiler(view: TrainingView, tmp_path: Path, encoder: Any) -> None:
    def tuned(**options: Any) -> str:
        folder = tune("mine", view, out=tmp_path / "tuned", model="tiny", encoder=encoder, **options)
        return (folder / "options").read_text()

    assert tuned() == "tiny 3 ('kd', 'ppo')"
    assert tuned(config="cpu", stages=["kd"]) == "tiny 1 ('kd',)"
    (tmp_path / "mine.yaml").write_text("epochs: 7")
    assert tuned(config=tmp_path / "mine.yaml") == "tiny 7 ('kd', 'ppo')"
    assert tuned(config={"epochs": 5}) == "tiny 5 ('kd', 'ppo')"
    with pytest.raises(NotFound) as error:
        tuned(config="cpus")
    assert error.value.remedy == "cpu"
    with pytest.raises(NotFound):
        tuned(config={"epoch": 5})
    with pytest.raises(BadInput):
        tuned(stages=[])


def test_a_teacher_is_a_file_profiles_or_options(tmp_path: Path) -> None:
    def teacher(teacher: Any) -> dict[str, Any]:
        return tuning_settings("mine", teacher=teacher)["teacher"]

    assert teacher("users.csv") == {"users": Path("users.csv")}
    assert teacher(Profiles(tmp_path, ("user", "item"))) == {"users": tmp_path, "items": tmp_path}
    assert teacher({"model": "gpt", "engine": "server"}) == {"model": "gpt", "engine": "server"}


def test_two_runs_do_not_tune_in_one_folder(
    view: TrainingView, tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tuned"
    with tuning_lock(folder):
        with pytest.raises(Busy):
            tune("mine", view, out=folder, encoder=encoder)
        monkeypatch.setenv("RANK", "1")  # another process of the same launch
        tune("mine", view, out=folder, encoder=encoder)
    monkeypatch.setattr(Tunable, "tunable", False)
    with pytest.raises(BadInput) as error:
        tune("mine", view, out=folder)
    assert error.value.remedy == "reclm profile --profiler mine"
