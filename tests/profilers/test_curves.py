import json
import struct

import numpy as np
import pytest
from matplotlib.lines import Line2D

from reclm.errors import Damaged, ReclmError
from reclm.profilers.tuning.metrics_log import Curve, draw, read_metrics


def write(folder, *lines) -> None:
    folder.mkdir(exist_ok=True)
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def points(line: Line2D) -> list[tuple[float, float]]:
    return list(map(tuple, np.asarray(line.get_xydata()).tolist()))


def curve(*values: float) -> Curve:
    return Curve(np.arange(1, len(values) + 1), np.array(values, float))


def test_a_curve_a_name(tmp_path):
    write(
        tmp_path,
        {"step": 5, "loss": 2.0},
        {"step": 10, "loss": 1, "eval_loss": 1.5, "note": "x", "done": True},
    )
    found = read_metrics(tmp_path)
    assert set(found) == {"loss", "eval_loss"}
    assert found["loss"].steps.tolist() == [5, 10]
    assert found["loss"].values.tolist() == [2.0, 1.0]
    assert found["eval_loss"].steps.tolist() == [10]


def test_a_torn_line_is_passed_over(tmp_path):
    write(tmp_path, {"step": 1, "loss": 2.0}, '{"step": 2, "lo')
    assert read_metrics(tmp_path)["loss"].steps.tolist() == [1]
    write(
        tmp_path, {"step": 1, "loss": 2.0}, '{"step": 2, "lo{"step": 2, "loss": 1}', {"step": 3, "loss": 0.5}
    )
    assert read_metrics(tmp_path)["loss"].steps.tolist() == [1, 3]
    write(tmp_path, {"step": 1, "loss": 2.0}, '{"step": 2, "loss": {"step": 3, "loss": 1}', "[" * 9000)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 1, "step": 3, "loss": 2}\n')  # two lines, torn and joined
    assert read_metrics(tmp_path)["loss"].steps.tolist() == [1]


def test_a_step_done_again_counts_as_it_was_last(tmp_path):
    write(
        tmp_path, *({"step": step, "loss": value} for step, value in [(1, 9), (2, 8), (3, 7), (2, 6), (3, 5)])
    )
    found = read_metrics(tmp_path)["loss"]
    assert (found.steps.tolist(), found.values.tolist()) == ([1, 2, 3], [9, 6, 5])


def test_what_is_no_finite_number_is_left_out(tmp_path):
    write(
        tmp_path,
        '{"step": 1, "loss": NaN}',
        '{"step": 2, "loss": Infinity}',
        {"step": 4, "loss": 10**400},
        {"step": 3, "loss": 1.0},
    )
    assert read_metrics(tmp_path)["loss"].steps.tolist() == [3]


def test_nothing_was_logged(tmp_path):
    assert read_metrics(tmp_path) == {}
    write(tmp_path)
    assert read_metrics(tmp_path) == {}
    assert not draw({"kd": {}}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "line", ["[1, 2]", '{"loss": 1}', '{"step": "one", "loss": 1}', "7", '{"step": 99999999999999999999}']
)
def test_a_row_without_a_step(tmp_path, line):
    write(tmp_path, {"step": 1, "loss": 2.0}, line)
    with pytest.raises(Damaged, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path)


def test_a_panel_a_curve(tmp_path):
    ppo = {
        name: curve(1, 2)
        for name in ("reward", "reward_std", "kl", "kl_coefficient", "entropy", "policy_loss")
    }
    stages = {
        "kd": {"loss": curve(3, 2, 1), "eval_loss": curve(2), "entropy": curve(1)},
        "reward": {"loss": curve(1), "accuracy": curve(0.5), "eval_accuracy": curve(0.9)},
        "$ppo": ppo,
        "idle": {},
    }
    drawn = draw(stages, tmp_path / "curves.png", "RecLM", kl_target=6.0)
    titles = [axis.get_title(loc="left") for axis in drawn.axes]
    assert titles == [
        "kd: loss",
        "reward: loss",
        "reward: accuracy",
        r"\$ppo: reward",
        r"\$ppo: KL of an answer, nats",
        r"\$ppo: β, weight of KL",
        r"\$ppo: entropy of a token, nats",
    ]
    lines = {line.get_label(): line for line in drawn.axes[0].lines}
    assert points(lines["training"]) == [(1, 3), (2, 2), (3, 1)]
    assert points(lines["held-out"]) == [(1, 2)]
    (target,) = [line for line in drawn.axes[4].lines if line.get_label() == "target 6"]
    assert [y for _, y in points(target)] == [6, 6]
    assert drawn.axes[4].get_ylim()[0] == 0


def test_a_long_curve_is_drawn_as_its_running_mean(tmp_path):
    values = np.arange(40.0) % 2
    raw, smooth = draw({"kd": {"loss": curve(*values)}}, tmp_path / "x.png").axes[0].lines
    assert [y for _, y in points(raw)] == values.tolist()
    # over three values, two at the ends: 0 1 0 1 … 1
    steps, means = zip(*points(smooth), strict=True)
    assert (*means[:3], means[-1]) == pytest.approx((1 / 2, 1 / 3, 2 / 3, 1 / 2))
    assert steps == tuple(range(1, 41))


def test_a_kl_below_nothing_is_seen(tmp_path):
    ppo = {"kl": curve(-0.5, 1)}
    assert draw({"ppo": ppo}, tmp_path / "x.png").axes[0].get_ylim()[0] == -0.5


def test_one_png(tmp_path):
    path = tmp_path / "curves.png"
    assert draw({"kd": {"loss": curve(3, 2)}, "ppo": {"reward": curve(1), "kl": curve(1)}}, path, "a $ b")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (3 * 510, 405)  # three panels of 3.4 by 2.7 inches, 150 dots each
    with pytest.raises(ReclmError) as error:
        draw({"kd": {"loss": curve(3, 2)}}, path / "below" / "curves.png")
    assert error.value.where == path / "below" / "curves.png"
