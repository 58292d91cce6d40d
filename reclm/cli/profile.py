"""``reclm profile``: write profiles."""

import shlex
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from reclm.data.dataset import ProfileKind, TrainingView
    from reclm.profiles.estimate import KindEstimate
    from reclm.profiles.store import ProfileStore
    from reclm.profiles.write import ProfileRun


class Kind(StrEnum):
    """Whose profiles."""

    user = "user"
    item = "item"
    both = "both"

    @property
    def kinds(self) -> "tuple[ProfileKind, ...]":
        """As the library names them."""
        return ("user", "item") if self is Kind.both else (self.value,)


Home = Annotated[
    Path | None, typer.Option(help="Folder of your work; default $RECLM_HOME, else ./reclm-home.")
]
DatasetName = Annotated[str, typer.Option(help="A prepared data set, an embedded one, or a folder.")]
StoreFolder = Annotated[Path | None, typer.Option(help="Folder of the profile store, in place of home's.")]
EncoderName = Annotated[
    str | None, typer.Option(help="Text encoder: hub name or directory; default all-MiniLM-L6-v2.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        help="Language model: hub name, directory or GGUF file; default SmolLM2-135M. With --engine server, what the "
        "server calls it."
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        help="What runs the model: openvino, transformers, or server, the OpenAI-compatible one at $OPENAI_BASE_URL."
    ),
]
AdapterFolder = Annotated[
    Path | None, typer.Option(help="Folder of what was tuned, for a profiler that is: reclm tune writes it.")
]


def profile(
    dataset: DatasetName = "ml-100k",
    profiler: Annotated[
        str, typer.Option(help="zero-shot, keywords, reclm, langptune, or a plug-in.")
    ] = "zero-shot",
    model: ModelName = None,
    engine: EngineName = None,
    adapter: AdapterFolder = None,
    encoder: EncoderName = None,
    kind: Annotated[Kind, typer.Option(help="Whose profiles.")] = Kind.both,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many users, and so many items.")
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Only those who share one of the so many commonest prompts."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; write nothing.")] = False,
    home: Home = None,
    store: StoreFolder = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Set the store that is there aside, begin an empty one.")
    ] = False,
    carry_over: Annotated[
        bool,
        typer.Option(
            "--carry-over",
            help="The data have changed: set the store aside, take from it what answers an equal prompt, write the "
            "rest.",
        ),
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Setting of the profiler.")
    ] = None,
) -> None:
    """Write a profile of every user and item, and embed it. Run again, it goes on where it stopped."""
    from rich.console import Console

    import reclm.data
    from reclm.config import parse_settings
    from reclm.console import printable
    from reclm.folders import Workspace
    from reclm.profiles.embeddings import update
    from reclm.profiles.ensure import ProfilerChoice, ensure_profiles, estimate_profiles
    from reclm.text.encoder import TextEncoder

    workspace = Workspace.at(home)
    view = reclm.data.load(dataset, workspace).view()
    text_encoder = TextEncoder(encoder)
    choice = ProfilerChoice(profiler, parse_settings(set_ or []), model, engine, adapter)
    options = (view, workspace, choice, kind.kinds, limit, store, fresh)
    more = {"prompts": prompts, "carry_over": carry_over}
    console = Console(highlight=False)
    say = partial(console.print, markup=False, soft_wrap=True)
    where = given_options(
        dataset=dataset, profiler=profiler, model=model, engine=engine, home=home, store=store
    )
    sides = None if kind is Kind.both else kind.value
    how = given_options(adapter=adapter, encoder=encoder, kind=sides, limit=limit)
    if dry_run:
        console.print(_estimates(estimate_profiles(*options, encoder=text_encoder, **more)))
        how += given_options(prompts=prompts) + " --carry-over" * carry_over + " --fresh" * fresh
        say(f"next: reclm profile{where}{how}{''.join(given_options(set=one) for one in set_ or [])}")
        return
    profiles, run = ensure_profiles(*options, **more)
    for one in kind.kinds:
        update(profiles, text_encoder, one)
    console.print(_summary(run))
    shown = _print_examples(console, view, profiles, kind.kinds)
    say(f"\nstored in {profiles.folder}")
    own = "".join(given_options(profiler_set=one) for one in set_ or [])
    say(f"next: reclm bench --backbone lightgcn --augment{where}{how}{own}")
    if shown:
        place = given_options(store=profiles.folder) if adapter else where
        say(f"      reclm profiles show {shlex.quote(printable(shown))}{place}")


def given_options(**values: object) -> str:
    """Those that were given, as one writes them on the command line."""
    given = {name.replace("_", "-"): value for name, value in values.items() if value is not None}
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given.items())


def _summary(run: "ProfileRun") -> "Table":
    from rich.table import Table

    table = Table("", *(f"{one.kind}s" for one in run.kinds), title="profiles")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {
        "subjects": [f"{one.subjects:,}" for one in run.kinds],
        "distinct prompts": [f"{one.distinct:,}" for one in run.kinds],
        "stored before": [f"{one.stored:,}" for one in run.kinds],
        "copied from an equal prompt": [f"{one.copied:,}" for one in run.kinds],
        "prompts answered": [f"{one.generated:,}" for one in run.kinds],
        "profiles written": [f"{one.written:,}" for one in run.kinds],
        "tokens read": [f"{one.prompt_tokens:,}" for one in run.kinds],
        "tokens written": [f"{one.new_tokens:,}" for one in run.kinds],
        "seconds": [f"{one.seconds:.1f}" for one in run.kinds],
        "prompts a second": [f"{one.rate:.1f}" if one.generated else "–" for one in run.kinds],
        "ended by the token limit": [f"{one.cut:,}" for one in run.kinds],
        "profiles in the store": [f"{one.in_store:,}" for one in run.kinds],
        "distinct texts": [f"{one.texts:,}" for one in run.kinds],
        "in the profile format": [
            f"{one.in_format / one.in_store:.1%}" if one.in_store else "–" for one in run.kinds
        ],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _estimates(estimates: "list[KindEstimate]") -> "Table":
    from rich.table import Table

    from reclm.console import duration

    table = Table("", *(f"{one.plan.kind}s" for one in estimates), title="dry run: nothing is written")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {
        "subjects": [f"{one.plan.subjects:,}" for one in estimates],
        "left out, by --prompts": [f"{one.plan.left_out:,}" for one in estimates],
        "distinct prompts": [f"{one.plan.distinct:,}" for one in estimates],
        "stored already": [f"{one.plan.stored:,}" for one in estimates],
        "prompts to write": [f"{len(one.plan.prompts):,}" for one in estimates],
        "tokens to read (estimate)": [f"{one.prompt_tokens:,}" for one in estimates],
        "tokens to write (estimate)": [f"{one.new_tokens:,}" for one in estimates],
        "time to write (estimate)": [duration(one.seconds) for one in estimates],
        "time to embed (estimate)": [duration(one.embed_seconds) for one in estimates],
        "prompts answered for the estimate": [f"{one.sample:,}" for one in estimates],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _print_examples(
    console: "Console", view: "TrainingView", store: "ProfileStore", kinds: "tuple[ProfileKind, ...]"
) -> str | None:
    """Print three profiles of each kind beside what they were made from; the first one's id."""
    from rich.table import Table
    from rich.text import Text

    from reclm.console import printable
    from reclm.profiles.write import examples

    first = None
    for kind in kinds:
        left = "history, newest first" if kind == "user" else "item"
        table = Table(f"{kind} id", left, "profile", title=f"{kind} profiles", show_lines=True)
        for one in examples(view, store, kind):
            first = first or one.profile.id
            titles = "\n".join(printable(text, 70) for text in one.source)
            cells = printable(one.profile.id), titles, printable(one.profile.text)
            table.add_row(*map(Text, cells))
        if table.row_count:
            console.print(table)
    return first
