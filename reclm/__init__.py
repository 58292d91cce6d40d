"""LLM-written user and item profiles for any recommender."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reclm.fusion.augment import Augmented, augment, remove

__all__ = ["Augmented", "augment", "remove"]


def __getattr__(name: str) -> Any:
    """The names above, imported when they are first asked for: ``import reclm`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'reclm' has no attribute {name!r}")
    from reclm.fusion.dual_mlp import augment as augmentation

    return getattr(augmentation, name)
