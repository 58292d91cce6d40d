"""A tiny language model, in every form the engines read."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny import write_tiny_gguf

from reclm.llm.models import LanguageModel, find_model
from reclm.llm.tokens import PromptTokenizer


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory):
    """The cache of converted models, away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RECLM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory, own_cache) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", quantised=True)


@pytest.fixture(scope="session")
def tiny_model(tiny_gguf) -> LanguageModel:
    return find_model(str(tiny_gguf))


@pytest.fixture(scope="session")
def prompts(tiny_model) -> PromptTokenizer:

    return PromptTokenizer.of(tiny_model)
