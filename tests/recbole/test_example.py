"""The example runs, and shows what it is there to show."""

import re
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "recbole_lightgcn.py"


def test_profiles_let_recbole_rank_items_that_nobody_has_touched(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    plain, augmented = capsys.readouterr().out.splitlines()
    cold = [float(re.search(r"zero-shot recall@6 ([\d.]+)", line).group(1)) for line in (plain, augmented)]
    assert cold[0] < 0.75  # half of the 12 cold items fit a user: at random the 6 places hold half of them
    assert cold[1] > 0.9
