"""``reclm data``: list, prepare, show and export data sets."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import reclm
from reclm.cli import options as opt
from reclm.console import say, show_frame
from reclm.errors import BadInput

if TYPE_CHECKING:
    from reclm.data.dataset import Dataset

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Prepare data sets and look at them.")


@app.command("list")
def list_(home: opt.Home = None) -> None:
    """List the data sets prepared so far, and the readers that are installed with their options."""
    frame = reclm.list_datasets()
    frame["options"] = [_options(values) for values in frame.options]
    prepared, readers = frame.query("kind == 'prepared'"), frame.query("kind != 'prepared'")
    show_frame(readers, "readers", ["name", "kind", "summary", "options"])
    columns = ["name", "users", "items", "train", "summary", "fingerprint"]
    show_frame(prepared, f"prepared in {reclm.workspace()}", columns)
    opt.next_step("reclm data prepare NAME --source PATH")


def _options(values: Any) -> str:
    if not isinstance(values, dict):
        return ""
    return ", ".join(f"{key} ({'' if value in (None, '', []) else value})" for key, value in values.items())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def prepare(
    context: typer.Context,
    reader: Annotated[str, typer.Argument(help="A reader of `reclm data list`.")],
    source: Annotated[opt.Text, opt.option("The raw files: a file, zip, folder or address.")] = None,
    name: Annotated[opt.Text, opt.option("Its new name; default the reader's.", "--name", "--as")] = None,
    out: Annotated[opt.File, opt.option("Folder to write, in place of the workspace's.")] = None,
    replace: Annotated[bool, opt.option("Write over one prepared in another way.", "--replace")] = False,
    strict: Annotated[bool, opt.option("Stop at the first malformed line.", "--strict")] = False,
    noun: Annotated[str, opt.option("What the items are, for prompts: films, songs, ….")] = "",
    set_: Annotated[opt.Texts, opt.setting("Option of the reader; --key VALUE does the same.")] = None,
    home: opt.Home = None,
) -> None:
    """Read raw data, split it and save it under its name.

    Options of the reader can also be written as flags: --train-day 2019-11-14 is --set train_day=2019-11-14.
    """
    from reclm.config import parse_settings

    options = parse_settings([*(set_ or []), *_as_settings(context.args)])
    if taken := sorted({"reader", "source", "name", "replace", "strict", "noun"} & {*options}):
        message = f"{taken[0]} is no option of a reader: reclm data prepare READER --source PATH --name NAME"
        raise BadInput(message, value=taken[0], where="--set")
    dataset = reclm.prepare_dataset(
        reader, source, name=out or name, replace=replace, strict=strict, noun=noun, **options
    )
    _show(dataset, str(out) if out else dataset.name)


@app.command()
def show(name: opt.DatasetArgument, home: opt.Home = None) -> None:
    """Show the contents of a data set: counts, splits, protocols, item text, what was dropped and why."""
    _show(reclm.load_dataset(name), name)


@app.command()
def check(name: opt.DatasetArgument, home: opt.Home = None) -> None:
    """Measure how far simple recommenders get on a data set, and say whether profiles could help."""
    reclm.load_dataset(name).check().description.show()
    opt.next_step(f"reclm bench --dataset {shlex.quote(name)} --augment")


@app.command()
def export(
    name: opt.DatasetArgument,
    out: Annotated[Path, opt.option("A new folder; the files are named after it.")],
    format: Annotated[Literal["recbole"], opt.option("RecBole atomic files.")] = "recbole",
    home: opt.Home = None,
) -> None:
    """Write a data set for another library: splits, ids and item text."""
    from reclm.data.readers.recbole import write_atomic

    write_atomic(reclm.load_dataset(name), out)
    say(f"wrote {out}; in RecBole: data_path={out.resolve().parent} dataset={out.resolve().name}")
    say("benchmark_filename=[train, valid, test]")
    opt.next_step(f"reclm data prepare recbole --source {shlex.quote(str(out))} --name NAME")


def _as_settings(words: list[str]) -> list[str]:
    """Return ``["--train-day", "2019-11-14", "--seed=3"]`` as ``["train_day=2019-11-14", "seed=3"]``."""
    settings, rest = [], iter(words)
    for word in rest:
        key, equals, value = word.partition("=")
        if not key.startswith("--"):
            raise BadInput(f"unexpected argument {word!r}; write reader options as --key VALUE", value=word)
        if not equals and (value := next(rest, None)) is None:
            message = f"{word} is no flag of prepare; as an option of the reader it needs a value"
            raise BadInput(message, value=word)
        settings.append(f"{key.removeprefix('--').replace('-', '_')}={value}")
    return settings


def _show(dataset: "Dataset", name: str) -> None:
    summary = dataset.summary()
    place = f", in {dataset.folder}" if dataset.folder else ""
    replace(summary, title=summary.title + place).show()
    if dataset.has_item_text:
        return opt.next_step("reclm profile", dataset=name, dry_run=True)
    say("there is no item text: items are known by their ids alone, and no profile can be written")
    opt.next_step("reclm bench", dataset=name, set="items=id")
