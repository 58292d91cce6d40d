"""All-rank evaluation against its bound: ``python -m tools.perf.ranking --dataset mind-release``.

The bound is the bare blocked matrix product, mask and top-k of the same users and items; what we add to it is the
gathering of rows, the look-up of hits and every metric of every user.
"""

import torch

import reclm
from reclm.backbones.bprmf import BPRMF
from reclm.benchmarks.trial import test_tasks
from reclm.recommend.evaluate import evaluate
from tools.perf.common import arguments, machine, side_by_side
from tools.perf.epoch import inputs

BLOCK, K = 1024, 40


def main() -> None:
    """Print seconds of an evaluation, the bound's, and their ratio."""
    options = arguments("all-rank evaluation against its bound").parse_args()
    reclm.workspace(options.home)
    dataset = reclm.load_dataset(options.dataset)
    task = test_tasks(dataset)["full-shot"]
    model = BPRMF(BPRMF.Config(), inputs(dataset), torch.Generator().manual_seed(0))
    with torch.no_grad():
        users, items = model.represent(model.user_features(), model.item_features())
        users, items = users[task.users].contiguous(), items[task.candidates].contiguous()
    pointers, columns = task.mask.indptr, torch.from_numpy(task.mask.indices)
    rows = torch.from_numpy(task.mask.nonzero()[0])

    @torch.inference_mode()
    def bound() -> None:
        for start in range(0, len(users), BLOCK):
            stop = min(start + BLOCK, len(users))
            scores = users[start:stop] @ items.T
            masked = slice(pointers[start], pointers[stop])
            scores[rows[masked] - start, columns[masked]] = -torch.inf
            scores.topk(K, dim=1)

    scorer = model.scorer()
    times = side_by_side(
        {"ours": lambda: evaluate(scorer, task, block=BLOCK), "bound": bound}, options.repeats
    )
    print(f"{dataset.name}: {len(users):,} users × {len(items):,} items; {machine()}")
    ratio = times["ours"] / times["bound"]
    print(f"evaluation {times['ours']:.3f} s   bound {times['bound']:.3f} s   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
