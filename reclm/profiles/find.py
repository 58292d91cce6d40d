"""Finding a store, and a profile in it, from what a user says."""

from collections.abc import Sequence
from pathlib import Path

from reclm.data.dataset import ProfileKind
from reclm.data.storage import is_dataset, read_head
from reclm.errors import ReclmError, near
from reclm.folders import Workspace
from reclm.profiles.profile import Profile
from reclm.profiles.store import KINDS, ProfileStore, stores
from reclm.profiles.write import open_profiler


def find_store(
    home: Path | None,
    dataset: str,
    profiler: str | None = None,
    model: str | None = None,
    engine: str | None = None,
    store: Path | None = None,
) -> Path:
    """The folder of the store that is meant.

    Args:
        home: the workspace.
        dataset: its name, or the folder it was loaded from.
        profiler, model, engine: who wrote it; may be left out where only one wrote for the data set.
        store: its folder, in place of all the rest.

    Raises:
        ReclmError: if there is none, or more than one.
    """
    if store is not None:
        if not ProfileStore.at(store):
            raise ReclmError(f"no profile store at {store}; see: reclm profiles list")
        return store
    workspace = Workspace.at(home)
    if is_dataset(Path(dataset)):
        dataset = str(read_head(Path(dataset))["name"])
    there = [folder for folder, info in stores(workspace) if info.dataset == dataset]
    if profiler or model or engine:
        wanted = workspace.store(dataset, open_profiler(profiler or "zero-shot", {}, model, engine)[1])
        there = [folder for folder in there if folder == wanted]
    if len(there) == 1:
        return there[0]
    if there:
        found = ", ".join(str(folder) for folder in there)
        raise ReclmError(f"several wrote profiles for {dataset!r}; choose one with --store: {found}")
    by = f" by {profiler or 'zero-shot'}" if profiler or model or engine else ""
    raise ReclmError(
        f"no profiles{by} for data set {dataset!r} in {workspace.root}; see: reclm profiles list, "
        f"or write them: reclm profile --dataset {dataset}"
    )


def find_profiles(folder: Path, id: str, kinds: Sequence[ProfileKind] = KINDS) -> list[Profile]:
    """The profiles of the user and the item called ``id``, of which there is at least one.

    Raises:
        ReclmError: if nobody is called so; the nearest ids are offered.
    """
    store = ProfileStore.read(folder)
    found = [profile for kind in kinds if (profile := store.get(kind, id))]
    if found:
        return found
    ids = sorted({one for kind in kinds for one in store.hashes(kind)})
    offered = near(id, ids) or ids[:3]
    hint = f"did you mean {', '.join(map(repr, offered))}?" if offered else "the store is empty"
    raise ReclmError(f"no profile of {' or '.join(kinds)} {id!r} in {folder}; {hint}")
