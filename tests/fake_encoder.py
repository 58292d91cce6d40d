"""A text encoder of a test in the place of the one that needs a model."""

import pytest

from reclm.text.encoder import TextEncoder


def use_encoder(patch: pytest.MonkeyPatch, fake: type) -> None:
    """Let every :class:`TextEncoder` be like ``fake``, which takes the same arguments."""
    for name in dir(fake):
        if name == "__init__" or not name.startswith("__"):
            patch.setattr(TextEncoder, name, getattr(fake, name), raising=False)
