"""``reclm profile``: write profiles."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reclm.cli import options as opt

if TYPE_CHECKING:
    from reclm.profiles.profiles import Profiles
    from reclm.profiles.run import ProfileRun


def profile(
    dataset: opt.DatasetName = "ml-100k",
    profiler: opt.ProfilerName = "zero-shot",
    model: opt.ModelName = None,
    engine: opt.EngineName = None,
    adapter: opt.AdapterFolder = None,
    encoder: opt.EncoderName = None,
    kinds: opt.KindsOption = "both",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many users, and so many items.")
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Only users and items with one of the so many commonest prompts."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; write nothing.")] = False,
    store: opt.StoreFolder = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Set the profiles that are there aside, and begin anew.")
    ] = False,
    carry_over: Annotated[
        bool,
        typer.Option(
            "--carry-over",
            help="The data have changed: set the profiles aside, take over answers to equal prompts, write the rest.",
        ),
    ] = False,
    set_: opt.Settings = None,
    home: opt.Home = None,
) -> None:
    """Write a profile of every user and item, and embed it. Run again, it resumes."""
    import reclm
    from reclm.config import parse_settings
    from reclm.console import say, show_table

    profiler = opt.tuned(profiler, adapter)
    data = reclm.load_dataset(dataset)
    options: dict[str, Any] = {"model": model, "engine": engine, "kinds": opt.sides(kinds), "limit": limit}
    options |= {"prompts": prompts, "encoder": encoder, "store": store, "fresh": fresh}
    options |= {"carry_over": carry_over, **parse_settings(set_ or [])}
    same: dict[str, Any] = {"dataset": dataset, "profiler": profiler, "model": model, "engine": engine}
    same |= {"store": store, "encoder": encoder, "limit": limit}
    same["kinds"] = None if kinds == "both" else kinds
    if dry_run:
        table = reclm.estimate_profiles(data, profiler, **options).table()
        show_table(["", *table.columns], table.itertuples(), "dry run: nothing is written")
        opt.next_step("reclm profile", **same, prompts=prompts, carry_over=carry_over, fresh=fresh, set=set_)
        return
    profiles = reclm.write_profiles(data, profiler, **options)
    if profiles.run:
        _show_run(profiles.run)
    example = _show_examples(profiles)
    say(f"\nstored in {profiles.folder}")
    opt.next_step("reclm bench --backbone lightgcn --augment", **same, profiler_set=set_)
    if example:
        say(
            f"      reclm profiles show{opt.flags(id=example, store=profiles.folder).replace(' --id', '', 1)}"
        )


def _show_run(run: "ProfileRun") -> None:
    from reclm.console import show_table

    counts = {
        "subjects": [kind.subjects for kind in run.kinds],
        "distinct prompts": [kind.distinct for kind in run.kinds],
        "stored before": [kind.stored for kind in run.kinds],
        "copied from an equal prompt": [kind.copied for kind in run.kinds],
        "prompts answered": [kind.generated for kind in run.kinds],
        "profiles written": [kind.written for kind in run.kinds],
        "tokens read": [kind.prompt_tokens for kind in run.kinds],
        "tokens written": [kind.new_tokens for kind in run.kinds],
        "seconds": [f"{kind.seconds:.1f}" for kind in run.kinds],
        "prompts a second": [f"{kind.rate:.1f}" if kind.generated else "–" for kind in run.kinds],
        "ended by the token limit": [kind.cut for kind in run.kinds],
        "profiles in the store": [kind.in_store for kind in run.kinds],
        "distinct texts": [kind.texts for kind in run.kinds],
        "in the profile format": [
            f"{kind.in_format / kind.in_store:.1%}" if kind.in_store else "–" for kind in run.kinds
        ],
    }
    head = ["", *(f"{kind.kind}s" for kind in run.kinds)]
    show_table(head, ([name, *values] for name, values in counts.items()), "profiles")


def _show_examples(profiles: "Profiles") -> str | None:
    """Show three profiles of each kind beside their sources; return the first one's id."""
    from reclm.console import printable, show_table
    from reclm.profiles.run import examples

    first = None
    for kind in profiles.kinds:
        found = examples(profiles.view, profiles.store, kind)
        first = first or next((example.profile.id for example in found), None)
        source = "history, newest first" if kind == "user" else "item"
        rows = (
            (
                example.profile.id,
                "\n".join(printable(text, 70) for text in example.source),
                example.profile.text,
            )
            for example in found
        )
        show_table(["id", source, "profile"], rows, f"{kind} profiles", lines=True)
    return first
