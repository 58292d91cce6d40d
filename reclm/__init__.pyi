"""Signatures of the face: each name is the object of the module that it is imported from."""

from reclm.benchmarks.experiment import compare as compare
from reclm.benchmarks.experiment import run_suite as run_suite
from reclm.benchmarks.results import Result as Result
from reclm.benchmarks.run_diff import compare_runs as compare_runs
from reclm.data.catalog import list_datasets as list_datasets
from reclm.data.catalog import load_dataset as load_dataset
from reclm.data.catalog import prepare_dataset as prepare_dataset
from reclm.data.dataset import Dataset as Dataset
from reclm.errors import BadInput as BadInput
from reclm.errors import Busy as Busy
from reclm.errors import Damaged as Damaged
from reclm.errors import MissingExtra as MissingExtra
from reclm.errors import NotFound as NotFound
from reclm.errors import ReclmError as ReclmError
from reclm.folders import workspace as workspace
from reclm.fusion.augment import Augmented as Augmented
from reclm.fusion.augment import augment as augment
from reclm.fusion.augment import remove as remove
from reclm.profiles.profiles import Profiles as Profiles
from reclm.profiles.tune import tune as tune
from reclm.profiles.write import estimate_profiles as estimate_profiles
from reclm.profiles.write import list_profiles as list_profiles
from reclm.profiles.write import write_profiles as write_profiles
from reclm.recommend.fit import fit as fit
from reclm.recommend.recommender import Recommender as Recommender
from reclm.recommend.saved import load_model as load_model
from reclm.recommend.steering import measure_steering as measure_steering

__version__: str
__all__: list[str]
_FACE: dict[str, str]
