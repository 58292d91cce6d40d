"""``reclm profile``: write profiles."""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import reclm
from reclm.cli import options as opt
from reclm.console import printable, say, show_table

if TYPE_CHECKING:
    from reclm.profiles.profiles import Profiles
    from reclm.profiles.run import ProfileRun

CARRY_OVER = "The data have changed: set profiles aside, take over answers to equal prompts, write the rest."
LIMIT = (
    "Only so many users, and so many items, drawn at random: always the same, a higher limit adds to them."
)
ASK_AGAIN = "Also ask prompts that got no answer before: refused, cut, empty, too long."


def profile(
    dataset: opt.DatasetName = "ml-100k",
    profiler: opt.ProfilerName = "zero-shot",
    model: opt.ModelName = None,
    engine: opt.EngineName = None,
    engine_set: opt.EngineSet = None,
    adapter: opt.AdapterFolder = None,
    encoder: opt.EncoderName = None,
    kinds: opt.KindsOption = "both",
    limit: Annotated[opt.Count, opt.option(LIMIT, min=1)] = None,
    prompts: Annotated[opt.Count, opt.option("Only those with the so many commonest prompts.", min=1)] = None,
    dry_run: Annotated[bool, opt.option("Count and estimate; write nothing.", "--dry-run")] = False,
    store: opt.StoreFolder = None,
    fresh: Annotated[bool, opt.option("Set profiles that are there aside, begin anew.", "--fresh")] = False,
    carry_over: Annotated[bool, opt.option(CARRY_OVER, "--carry-over")] = False,
    ask_again: Annotated[bool, opt.option(ASK_AGAIN, "--ask-again")] = False,
    set_: opt.Settings = None,
    trust: opt.Trust = False,
    home: opt.Home = None,
) -> None:
    """Write a profile of every user and item, and embed it. Run again, it resumes."""
    from reclm.config import parse_settings

    profiler = opt.tuned(profiler, adapter)
    data = reclm.load_dataset(dataset)
    shared: dict[str, Any] = {"model": model, "engine": engine, "store": store}
    shared |= {"encoder": encoder, "limit": limit}
    selection: dict[str, Any] = {
        "prompts": prompts,
        "carry_over": carry_over,
        "fresh": fresh,
        "ask_again": ask_again,
    }
    same = {"dataset": dataset, "profiler": profiler, **shared, "kinds": None if kinds == "both" else kinds}
    engine_options = parse_settings(engine_set or [], "--engine-set")
    same["engine_set"] = engine_set
    options = {
        **shared,
        "engine_options": engine_options,
        **selection,
        "kinds": opt.sides(kinds),
        **parse_settings(set_ or []),
    }
    if dry_run:
        estimate = reclm.estimate_profiles(data, profiler, **options)
        table = estimate.table()
        show_table(["", *table.columns], table.itertuples(), "dry run: nothing is written")
        for line in estimate.cut_texts:
            say(line)
        return opt.next_step("reclm profile", **same, **selection, set=set_)
    profiles = reclm.write_profiles(data, profiler, **options)
    if profiles.run:
        _show_run(profiles.run)
    example = _show_examples(profiles)
    say(f"\nstored in {profiles.folder}")
    opt.next_step("reclm bench --backbone lightgcn --augment", **same, profiler_set=set_)
    if example:
        say(f"      reclm profiles show {shlex.quote(example)}{opt.flags(store=profiles.folder)}")


def _show_run(run: "ProfileRun") -> None:
    columns = {
        f"{kind.kind}s": {
            "subjects": kind.subjects,
            "distinct prompts": kind.distinct,
            "stored before": kind.stored,
            "copied from an equal prompt": kind.copied,
            "prompts answered": kind.generated,
            "profiles written": kind.written,
            "left without a profile": len(kind.faults),
            "not asked, refused before": kind.passed_over,
            "tokens read": kind.prompt_tokens,
            "tokens written": kind.new_tokens,
            "seconds": f"{kind.seconds:.1f}",
            "prompts a second": f"{kind.generated / kind.seconds:.1f}" if kind.generated else "–",
            "ended by the token limit": kind.cut,
            "profiles in the store": kind.in_store,
            "distinct texts": kind.texts,
            "in the profile format": f"{kind.in_format / kind.in_store:.1%}" if kind.in_store else "–",
        }
        for kind in run.kinds
    }
    rows = zip(*(column.values() for column in columns.values()), strict=True)
    names = next(iter(columns.values()))
    show_table(["", *columns], ([name, *row] for name, row in zip(names, rows, strict=True)), "profiles")


def _show_examples(profiles: "Profiles") -> str | None:
    """Show three profiles of each kind beside their sources; return the first one's id."""
    from reclm.profiles.run import examples

    first = None
    for kind in profiles.kinds:
        rows = [
            (id, "\n".join(printable(text, 70) for text in source), profile)
            for id, source, profile in examples(profiles.view, profiles.store, kind)
        ]
        source = "history, newest first" if kind == "user" else "item"
        show_table(["id", source, "profile"], rows, f"{kind} profiles", lines=True)
        first = first or (rows[0][0] if rows else None)
    return first
