import shlex
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from reclm.data.dataset import ReadReport
from reclm.errors import BadInput
from reclm.llm.models import find_model
from reclm.profilers.reclm.report import nameless, write_card

PARSER = MarkdownIt("gfm-like", {"linkify": False})
FORGED = "x |\n---\nlicense: mit\n---\n```\n# Results\n<b>y</b>"


@pytest.fixture
def tuning(tmp_path) -> Any:
    return SimpleNamespace(
        folder=tmp_path,
        model=SimpleNamespace(name="meta-llama/Llama-2-7b-chat-hf@01234567", path=None),
        view=SimpleNamespace(name="mind-release", fingerprint="feedc0de"),
        teachers={
            "user": SimpleNamespace(report=ReadReport({"user": 1466}, {"2 identities instead of 3": 195}))
        },
    )


@pytest.fixture
def content(comparison) -> list[Any]:
    """Settings, comparisons, remarks and picture."""
    settings = {"kd": {"learning_rate": 2e-4, "teacher": "/home/ann/data/users.csv"}, "ppo": {"steps": 100}}
    return [settings, [comparison], ["PPO ran away."], "curves.png"]


def body(text: str, kind: str) -> list[str]:
    return [one.content for one in PARSER.parse(text) if one.type == kind]


def test_the_hub_reads_it(tuning, content):
    path = write_card(tuning, *content)
    saved = ModelCard.load(path)
    assert path.name == "README.md"
    assert saved.data.to_dict() == {
        "base_model": "meta-llama/Llama-2-7b-chat-hf",
        "datasets": ["mind-release"],
        "library_name": "peft",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["reclm", "recommender-systems", "user-profiles", "lora"],
    }
    assert str(saved) == path.read_text(encoding="utf-8")


def test_what_it_says(tuning, content):
    text = ModelCard.load(write_card(tuning, *content)).text
    assert "| fingerprint | feedc0de |" in text
    assert "| teacher's user profiles | 1,466 |" in text
    assert "| left out: 2 identities instead of 3 | 195 |" in text
    assert "3 held-out users:\n\n|  | n | in format |" in text
    assert "- PPO ran away." in text
    assert "![curves](curves.png)" in text
    use, kd, ppo, where = body(text, "fence")
    assert use == "reclm profile --profiler DIR --dataset mind-release\n"
    assert yaml.safe_load(kd) == {"learning_rate": 2e-4, "teacher": "users.csv"}
    assert yaml.safe_load(ppo) == {"steps": 100}
    assert "torch" in yaml.safe_load(where)  # of this machine


def test_it_replaces_the_card_that_peft_wrote(tuning, content, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n[More Information Needed]", encoding="utf-8")
    text = write_card(tuning, *content).read_text(encoding="utf-8")
    assert "More Information Needed" not in text
    assert "license: unknown" in text


@pytest.mark.parametrize(
    ("model", "expected"),
    [("org/model@12345678", "org/model"), ("SmolLM2.Q4_1@12345678", None), ("/home/ann/model", None)],
)
def test_the_base_model_is_named_where_the_hub_has_it(tuning, content, model, expected):
    tuning.model.name = model
    path = write_card(tuning, *content)
    assert ModelCard.load(path).data.get("base_model") == expected
    assert "/home" not in path.read_text(encoding="utf-8")


def test_the_embedded_model_is_named_as_on_the_hub(tuning, content):
    tuning.model = find_model()
    name = ModelCard.load(write_card(tuning, *content)).data.get("base_model")
    assert name == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_text_that_comes_from_data_forges_nothing(tuning, comparison):
    tuning.model.name = tuning.view.name = tuning.view.fingerprint = FORGED
    tuning.teachers["user"].report = ReadReport({"user": 1}, {FORGED: 1})
    path = write_card(tuning, {FORGED: {FORGED: FORGED}}, [comparison], [FORGED])
    saved = ModelCard.load(path)
    assert saved.data.get("license") == "unknown"
    tokens = PARSER.parse(saved.text)
    headings = [tokens[at + 1].content for at, one in enumerate(tokens) if one.type == "heading_open"]
    assert [one.split()[0] for one in headings] == [
        *("RecLM", "Use", "Training", "Quality", "Limits", "Settings", "x", "Environment")
    ]
    assert "html_block" not in {one.type for one in tokens}
    use, settings, _ = body(saved.text, "fence")
    assert shlex.split(use)[-1] == " ".join(FORGED.split())
    assert yaml.safe_load(settings) == {FORGED: FORGED}


def test_without_measurements(tuning):
    text = write_card(tuning, {"kd": {}}).read_text(encoding="utf-8")
    assert "Quality by stage" not in text


def test_of_a_path_only_its_end_is_told():
    given = {
        "a": "/x/y.csv",
        "b": ["~/z", {"c": "C:\\u\\v.txt"}],
        "d": 1.5,
        "e": None,
        "f": True,
        "g": "org/name",
    }
    assert nameless(given) == {
        "a": "y.csv",
        "b": ["z", {"c": "v.txt"}],
        "d": 1.5,
        "e": None,
        "f": True,
        "g": "org/name",
    }


def test_a_folder_that_cannot_be_written(tuning, content, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    tuning.folder = tmp_path / "file"
    with pytest.raises(BadInput, match=r"README\.md"):
        write_card(tuning, *content)
