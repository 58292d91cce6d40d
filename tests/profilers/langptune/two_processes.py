"""Run under ``torch.distributed.run`` by test_two_processes: some batches of contrastive learning, then all stages.

Arguments: folder of model and encoder, folder to tune in, file to write.
"""

import json
import sys
from pathlib import Path

import numpy as np
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parent))

import tiny_langptune
from safetensors.torch import save_file

from reclm.profilers.langptune.config import ContrastiveConfig
from reclm.profilers.langptune.profiler import LangPTuneProfiler
from reclm.profilers.langptune.recommender import Contrastive
from reclm.text.encoder import TextEncoder

PROFILES = ["the user likes jazz", "loud games", "the user likes tea music", "quiet tea"]
TEXTS = ["old jazz", "loud chess", "warm tea", "loud chess"]
IDX = np.array([3, 1, 8, 1])


def contrast(place: Path, weights: Path) -> list[dict[str, float]]:
    """Three batches, this process's share of each; the weights that they lead to are written."""
    config = ContrastiveConfig(steps=3, batch_size=4, weight_decay=0.1)
    model = Contrastive(TextEncoder(str(place / "encoder"), "cpu").model, config, 1e-2, Accelerator(cpu=True))
    own = slice(model.accelerator.process_index, None, model.accelerator.num_processes)
    metrics = [model.train_step(PROFILES[own], TEXTS[own], IDX[own]) for _ in range(3)]
    if model.accelerator.is_main_process:
        save_file(model.encoder.state_dict(), weights)
    return metrics


if __name__ == "__main__":
    place, out, file = map(Path, sys.argv[1:])
    metrics = contrast(place, file.with_suffix(".safetensors"))
    profiler = LangPTuneProfiler(
        tiny_langptune.config(),
        model=str(place / "model"),
        folder=out,
        encoder=TextEncoder(str(place / "encoder")),
    )
    tuning = profiler.tuning(tiny_langptune.view())
    tuning.run()
    results = tuning.results()
    if tuning.accelerator.is_main_process:
        written = {"processes": tuning.accelerator.num_processes, "metrics": metrics, "results": len(results)}
        file.write_text(json.dumps(written), encoding="utf-8")
    else:
        assert results == []
