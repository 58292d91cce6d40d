"""``reclm steer``: what a profile ranks first, and what becomes of that when the profile is edited."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reclm.cli.options import (
    AdapterFolder,
    DatasetName,
    EncoderName,
    EngineName,
    Home,
    ModelName,
    flags,
)
from reclm.errors import ReclmError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from reclm.recommend.steering import Effect, Ranked, Steered, Steering
    from reclm.recommend.text_ranking import UserProfile

LONGEST = 60
"""Characters of a title that are shown."""


def steer(
    user: Annotated[str | None, typer.Option(help="A user of the data set.")] = None,
    dataset: DatasetName = "ml-100k",
    profiler: Annotated[
        str, typer.Option(help="Whose profile: zero-shot, keywords, reclm, langptune, or a plug-in.")
    ] = "zero-shot",
    model: ModelName = None,
    engine: EngineName = None,
    adapter: AdapterFolder = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Setting of the profiler.")
    ] = None,
    encoder: EncoderName = None,
    edit: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The edited profile; - opens $EDITOR on it.")
    ] = None,
    topk: Annotated[int, typer.Option(min=1, help="How many items.")] = 10,
    measure: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="In place of one user: what 'loves' and 'dislikes' a category change for N users.",
        ),
    ] = None,
    home: Home = None,
) -> None:
    """Rank items by the text of a user's profile, and see what an edit of the profile moves."""
    import reclm.data
    from reclm.config import parse_settings
    from reclm.folders import Workspace
    from reclm.text.encoder import TextEncoder

    if edit is not None and user is None:
        raise ReclmError("--edit goes with --user ID: whose profile is it?")
    if (user is None) == (measure is None):
        raise ReclmError("say either --user ID, or --measure N for what edits change over N users")
    workspace = Workspace.at(home)
    data = reclm.data.load(dataset, workspace)
    options = {"model": model, "engine": engine, "adapter": adapter, "settings": parse_settings(set_ or [])}
    where = flags(dataset=dataset, profiler=profiler, model=model, engine=engine, adapter=adapter)
    settings = "".join(flags(set=one) for one in set_ or [])
    how = where + settings + flags(encoder=encoder, topk=topk)
    if user is not None:
        from reclm.recommend.fit import fit
        from reclm.recommend.text_ranking import TextProfiles, user_profile

        profile = user_profile(data, user, profiler, **options)
        editor = _editor(edit)
        texts = TextProfiles(data, {user: profile.text}, TextEncoder(encoder))
        found = fit("similarity", data, texts).steer(user, editor(profile.text) if editor else None, topk)
        _print_steered(found, profile)
        if edit is None:
            _say(f"next: reclm steer{flags(user=user)}{how} --edit -")
        elif profile.store is None:
            _say(f"next: reclm profile{where}{settings} --kind user   (then: reclm steer --measure 200)")
        else:
            _say(f"next: reclm steer --measure 200{how}")
    elif measure is not None:
        from reclm.recommend.steering import measure_steering
        from reclm.recommend.text_ranking import stored_profiles

        profiles = stored_profiles(data, profiler, encoder=encoder, **options)
        _print_measure(measure_steering(data, profiles, users=measure, k=topk))
        own = "".join(flags(profiler_set=one) for one in set_ or [])
        how = where + own + flags(encoder=encoder)
        _say(f"next: reclm bench --backbone similarity --augment{how}")


def _editor(edit: str | None) -> Callable[[str], str] | None:
    """What makes the edited profile of the profile; None without --edit."""
    if edit is None:
        return None
    return _in_editor if edit == "-" else lambda profile: edit


def _in_editor(profile: str) -> str:
    """The profile as it is saved in $VISUAL or $EDITOR, else as it was."""
    import click

    try:
        saved = click.edit(profile)
    except click.ClickException as error:
        raise ReclmError(f"{error.message}; set $EDITOR, or give the text: --edit TEXT") from error
    return profile if saved is None else saved


def _print_steered(found: "Steered", profile: "UserProfile") -> None:
    from rich.console import Console
    from rich.panel import Panel

    console = Console(highlight=False)
    history = _table(f"history of user {found.user}, newest first")
    for title in found.history:
        history.add_row(_text(title))
    console.print(history)
    if found.touched > len(found.history):
        _say(f"and {found.touched - len(found.history):,} older")
    profiles = {f"profile by {profile.writer}": profile.text}
    if found.edited is not None:
        profiles["edited profile"] = found.edited
    for title, text in profiles.items():
        console.print(Panel(_text(text, None), title=_text(title, None), title_align="left"))
    store = profile.store
    _say(f"profile stored in {store}" if store else "profile written now, and not stored")
    if found.cut:
        _say("the encoder's window ends before the profile does: what stands last in it is not read")
    console.print(_side_by_side(found.before, found.after) if found.after else _list(found.before))
    for one in found.left:
        _say(f"left the list: {one.title}, was {one.rank}, now {one.other_rank:,}: fell {one.rose:,}")


def _list(items: "list[Ranked]") -> "Table":
    table = _table("rank", "item", "title", "cosine")
    for one in items:
        table.add_row(str(one.rank), _text(one.item_id), _text(one.title), f"{one.score:.4f}")
    return table


def _side_by_side(before: "list[Ranked]", after: "list[Ranked]") -> "Table":
    table = _table("rank", "by the profile", "cosine", "by the edited profile", "cosine", "moved")
    for one, other in zip(before, after, strict=True):
        moved = _moved(other, len(before))
        titles = _text(one.title), _text(other.title)
        table.add_row(str(one.rank), titles[0], f"{one.score:.4f}", titles[1], f"{other.score:.4f}", moved)
    return table


def _moved(one: "Ranked", length: int) -> str:
    """What the edit did to an item of the edited profile's list."""
    if one.other_rank > length:
        return f"new, was {one.other_rank:,}: rose {one.rose:,}"
    if not one.rose:
        return "stayed"
    return f"rose {one.rose}" if one.rose > 0 else f"fell {-one.rose}"


def _print_measure(found: "Steering") -> None:
    from rich.console import Console

    table = _table("appended", "mean change of the share", "95 % interval", "right way", "could move so")
    for one in (found.loves, found.dislikes):
        table.add_row(*_effect(one))
    Console(highlight=False).print(table)
    _say(
        f"share of a category among the {found.topk} best items: {found.share:.1%} by the profiles as they are; "
        f"{found.users:,} users, each with one of {found.categories:,} categories"
    )
    _say(f"{found.described:,} of {found.total:,} users have a stored profile; who has none is not measured")
    if found.cut:
        _say(
            f"{found.cut:.0%} of the edited profiles are longer than the encoder's window: the sentence is not read"
        )


def _effect(one: "Effect") -> "tuple[Text | str, ...]":
    interval = "–"
    if one.low is not None and one.high is not None:
        interval = f"{100 * one.low:+.1f} … {100 * one.high:+.1f}"
    return (
        _text(one.sentence.strip()),
        f"{100 * one.change:+.1f} points",
        interval,
        f"{one.right:.1%} of users",
        f"{one.possible:,} users",
    )


def _table(*columns: str) -> "Table":
    """A table whose numbers stand on the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        side: Literal["left", "right"] = "right" if name in {"rank", "cosine"} else "left"
        table.add_column(_text(name, None), justify=side)
    return table


def _text(value: str, longest: int | None = LONGEST) -> "Text":
    """Text from data: no markup, and nothing that a terminal would obey."""
    from rich.text import Text

    from reclm.console import printable

    return Text(printable(value, longest))


def _say(line: str) -> None:
    from rich.console import Console

    from reclm.console import printable

    Console(highlight=False).print(printable(line), markup=False, soft_wrap=True)
