"""What a training logs step by step, and what is said where it cannot be written."""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from reclm.errors import ReclmError
from reclm.profilers.curves import FILE

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
_SAID = ("PytorchStreamWriter", "inline_container", "No space left", "os error 28", "Quota exceeded")


class Journal:
    """``metrics.jsonl`` and TensorBoard; what lies behind ``step`` is of a run that was broken, and is cut off."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        self._path.write_text("".join(f"{line}\n" for line in lines[:step]), encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What fails within because something cannot be written is a ReclmError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save and safetensors have errors of their own for a full disk
        full = getattr(error, "errno", None) in _UNWRITABLE or any(one in str(error) for one in _SAID)
        if not full:
            raise
        raise _unwritten(folder, error) from error


def _unwritten(folder: Path, error: Exception) -> ReclmError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return ReclmError(f"cannot write {folder}: {reason}; make room and run the same command again to go on")
