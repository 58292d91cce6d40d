"""A comparison as a table, and in one sentence a protocol."""

from rich import box
from rich.table import Table

from reclm.benchmarks.compare import Comparison


def table(comparison: Comparison) -> Table:
    """Base and Augment side by side for every protocol: mean ± sd over seeds, relative change, paired t-test."""
    both = {"base", "augment"} <= set(comparison.variants())
    plan = comparison.plan
    chosen = (
        f"epochs chosen on the TEST set by {plan.train.metric} (the paper's selection: it flatters)"
        if plan.select_on == "test"
        else f"epochs chosen on validation {plan.train.metric}"
    )
    seeds = f"{plan.seeds} seed{'s' * (plan.seeds > 1)}"
    grid = Table(
        title=f"{plan.backbone} on {comparison.dataset.name}: {chosen}, {seeds}",
        caption="p: paired t-test over users, * p < .05" if both else None,
        box=box.SIMPLE_HEAD,
    )
    grid.add_column("", no_wrap=True)
    for variant in comparison.variants():
        grid.add_column(variant, justify="right")
    if both:
        grid.add_column("change", justify="right")
        grid.add_column("p", justify="right")
    for protocol, task in comparison.tasks.items():
        grid.add_row(f"[bold]{protocol}[/]  {len(task.users):,} users × {len(task.candidates):,} items")
        for metric in plan.metrics:
            cells = [_mean(comparison, variant, protocol, metric) for variant in comparison.variants()]
            if both:
                test = comparison.test(protocol, metric)
                cells += [_change(comparison, protocol, metric), _p(test.p)]
            grid.add_row(f"  {title(metric)}", *cells)
        grid.add_section()
    return grid


def verdicts(comparison: Comparison) -> list[str]:
    """Did the profiles help? One sentence a protocol, as plain for a no as for a yes; none where there is no Base."""
    if not {"base", "augment"} <= set(comparison.variants()):
        return []
    metric = comparison.headline()
    sentences = []
    for protocol in comparison.tasks:
        test = comparison.test(protocol, metric)
        p = _p(test.p).rstrip("* ")
        p = f"p {p[0]} {p[1:]}" if p.startswith("<") else f"p = {p}"
        numbers = f"{_change(comparison, protocol, metric)}, {p}, {test.n:,} users"
        if test.n == 0:
            verdict = "nobody to evaluate"
            numbers = "no user has a test item among the candidates"
        elif test.p >= 0.05:
            verdict = "no significant difference"
        else:
            verdict = "the profiles helped" if test.difference > 0 else "the profiles hurt"
        sentences.append(f"{protocol}: {verdict} in {title(metric)} ({numbers})")
    return sentences


def _mean(comparison: Comparison, variant: str, protocol: str, metric: str) -> str:
    values = comparison.values(variant, protocol, metric)
    spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def _change(comparison: Comparison, protocol: str, metric: str) -> str:
    base, augment = (comparison.values(name, protocol, metric).mean() for name in ("base", "augment"))
    return f"{augment / base - 1:+.1%}" if base > 0 else "–"


def _p(p: float) -> str:
    text = "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
    return f"{text} *" if p < 0.05 else f"{text}  "


def title(metric: str) -> str:
    """``"ndcg@20"`` as it is printed: ``"NDCG@20"``."""
    name, _, k = metric.partition("@")
    return f"{'NDCG' if name == 'ndcg' else 'MRR' if name == 'mrr' else name.capitalize()}@{k}"
