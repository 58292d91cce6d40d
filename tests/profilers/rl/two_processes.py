"""Run under ``torch.distributed.run`` by test_rlso: trains, and the first process writes the metrics as JSON.

Arguments: folder of the language model, options as JSON, file to write.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from toy_policy import count_e, make_loop  # pyright: ignore[reportMissingImports]

from reclm.llm.models import find_model
from reclm.profilers.rl.config import RLSOConfig
from reclm.profilers.rl.rlso import RLSO

if __name__ == "__main__":
    folder, options, file = sys.argv[1:]
    rlso = make_loop(RLSO, find_model(folder), RLSOConfig.model_validate_json(options), count_e)
    metrics = list(rlso.run())
    if rlso.accelerator.is_main_process:
        written = {"processes": rlso.accelerator.num_processes, "metrics": metrics}
        Path(file).write_text(json.dumps(written), encoding="utf-8")
