"""Run under ``torch.distributed.run`` by test_rlso: trains, and the first process writes the metrics as JSON.

Arguments: folder of the language model, options of the loop and of what it trains as JSON, file to write.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from toy_policy import count_e, make_loop  # pyright: ignore[reportMissingImports]

from reclm.llm.models import find_model
from reclm.profilers.rl.config import PPOConfig, RLSOConfig
from reclm.profilers.rl.ppo import PPO
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.tuning.adapter import LoraOptions

if __name__ == "__main__":
    folder, options, trained, file = sys.argv[1:]
    of_ppo = "clip" in json.loads(options)
    kind, config = (PPO, PPOConfig) if of_ppo else (RLSO, RLSOConfig)
    lora = LoraOptions.model_validate_json(trained)
    loop = make_loop(kind, find_model(folder), config.model_validate_json(options), count_e, lora)
    metrics = list(loop.run())
    if loop.accelerator.is_main_process:
        written = {"processes": loop.accelerator.num_processes, "metrics": metrics}
        Path(file).write_text(json.dumps(written), encoding="utf-8")
