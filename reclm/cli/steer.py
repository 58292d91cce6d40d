"""``reclm steer``: a profile's ranking, and what an edit of the profile moves."""

from typing import TYPE_CHECKING, Annotated, Any

import click

import reclm
from reclm.cli import options as opt
from reclm.console import printable, say, show_frame, show_table
from reclm.errors import BadInput

if TYPE_CHECKING:
    from reclm.recommend.steering import Ranked, Steered, Steering

LONGEST = 60  # characters of a title that are shown


def steer(
    user: Annotated[opt.Text, opt.option("A user of the data set.")] = None,
    dataset: opt.DatasetName = "ml-100k",
    profiler: opt.ProfilerName = "zero-shot",
    model: opt.ModelName = None,
    engine: opt.EngineName = None,
    engine_set: opt.EngineSet = None,
    adapter: opt.AdapterFolder = None,
    encoder: opt.EncoderName = None,
    edit: Annotated[opt.Text, opt.option("The edited profile; - opens $EDITOR.", metavar="TEXT")] = None,
    k: Annotated[int, opt.option("How many items.", "--k", "-k", "--topk", min=1)] = 10,
    measure: Annotated[
        opt.Count,
        opt.option("Without a user: what 'Loves …' and 'Dislikes …' move, over N users.", metavar="N", min=1),
    ] = None,
    set_: opt.Settings = None,
    trust: opt.Trust = False,
    home: opt.Home = None,
) -> None:
    """Rank items by a user's profile, and see what an edit of it moves."""
    from reclm.config import parse_settings
    from reclm.profiles.profiles import TextProfiles
    from reclm.profiles.write import stored_profiles, user_profile
    from reclm.text.encoder import TextEncoder

    if edit is not None and user is None:
        raise BadInput("--edit goes with --user ID, the user whose profile it is", where="--edit")
    if (user is None) == (measure is None):
        raise BadInput("give either --user ID, or --measure N for the effect of edits over N users")
    profiler = opt.tuned(profiler, adapter)
    data = reclm.load_dataset(dataset)
    options: dict[str, Any] = {"model": model, "engine": engine, "settings": parse_settings(set_ or [])}
    options["engine_options"] = parse_settings(engine_set or [], "--engine-set")
    same: dict[str, Any] = {"dataset": dataset, "profiler": profiler, "model": model, "engine": engine}
    same["engine_set"] = engine_set
    if measure is not None:
        profiles = stored_profiles(data, profiler, encoder=encoder, **options)
        _show_measure(reclm.measure_steering(data, profiles, users=measure, k=k))
        command = "reclm bench --backbone similarity --augment"
        return opt.next_step(command, **same, profiler_set=set_, encoder=encoder)
    assert user is not None
    profile = user_profile(data, user, profiler, **options)
    edited = _in_editor(profile.text) if edit == "-" else edit
    texts = TextProfiles(data, {user: profile.text}, TextEncoder(encoder))
    steered = reclm.fit("similarity", data, texts, progress=False).steer(user, edited, k)
    say(f"profile by {profile.writer}:\n{profile.text}\n")
    say(f"profile stored in {profile.store}" if profile.store else "profile written now, and not stored")
    _show(steered)
    if edit is None:
        opt.next_step("reclm steer", user=user, **same, set=set_, encoder=encoder, k=k, edit="-")
    elif profile.store is None:
        opt.next_step("reclm profile", **same, set=set_, kinds="user", note="then: reclm steer --measure 200")
    else:
        opt.next_step("reclm steer --measure 200", **same, set=set_, encoder=encoder, k=k)


def _in_editor(profile: str) -> str:
    """Return the profile as it is saved in $VISUAL or $EDITOR, else unchanged."""
    try:
        saved = click.edit(profile)
    except click.ClickException as error:
        message = f"{error.message}; set $EDITOR, or give the text: --edit TEXT"
        raise BadInput(message, where="--edit") from error
    return profile if saved is None else saved


def _show(steered: "Steered") -> None:
    if steered.edited is not None:
        say(f"\nedited profile:\n{steered.edited}")
    head = [f"history of user {steered.user}, newest first"]
    show_table(head, ([printable(title, LONGEST)] for title in steered.history))
    if steered.touched > len(steered.history):
        say(f"and {steered.touched - len(steered.history):,} older")
    if steered.cut:
        say("the encoder's window ends before the profile does: the end of the profile is not read")
    before = [(item.rank, printable(item.title, LONGEST), item.score) for item in steered.before]
    if not steered.after:
        ids = [item.item_id for item in steered.before]
        rows = ((rank, id, title, score) for id, (rank, title, score) in zip(ids, before, strict=True))
        return show_table(["rank", "item", "title", "cosine"], rows)
    rows = (
        (*row, printable(item.title, LONGEST), item.score, _moved(item, len(before)))
        for row, item in zip(before, steered.after, strict=True)
    )
    show_table(["rank", "by the profile", "cosine", "by the edited profile", "cosine", "moved"], rows)
    for item in steered.left:
        say(f"left the list: {item.title}, was {item.rank}, now {item.other_rank:,}: fell {item.rose:,}")


def _moved(item: "Ranked", length: int) -> str:
    """Return in words how far an item of the edited profile's list moved."""
    if item.other_rank > length:
        return f"new, was {item.other_rank:,}: rose {item.rose:,}"
    if not item.rose:
        return "stayed"
    return f"rose {item.rose}" if item.rose > 0 else f"fell {-item.rose}"


def _show_measure(steering: "Steering") -> None:
    title = "change of the share of a category, its 95 % interval, and the users that moved so"
    show_frame(steering.table(), title)
    say(
        f"share of a category among the {steering.topk} best items: {steering.share:.1%} by the profiles as they are; "
        f"{steering.users:,} users, each with one of {steering.categories:,} categories\n"
        f"{steering.described:,} of {steering.total:,} users have a stored profile; the others are not measured"
    )
    if steering.cut:
        share = f"{steering.cut:.0%} of the edited profiles"
        say(f"{share} end beyond the encoder's window: the sentence is not read")
