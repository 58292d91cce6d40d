"""``reclm tune``: tune a profiler's language model."""

import shlex
from typing import Annotated

import reclm
from reclm.cli import options as opt
from reclm.console import say, show

TEACHER = "User profiles to learn from: CSV, TSV, Parquet, JSON lines, or a profile store."


def tune(
    dataset: opt.DatasetName = "ml-100k",
    profiler: Annotated[str, opt.option("reclm, langptune, or a plug-in.")] = "reclm",
    model: opt.ModelName = None,
    teacher: Annotated[opt.File, opt.option(TEACHER)] = None,
    teacher_items: Annotated[opt.File, opt.option("Item profiles to learn from.")] = None,
    teacher_model: Annotated[opt.Text, opt.option("A chat model that writes the teacher's profiles.")] = None,
    teacher_engine: Annotated[opt.Text, opt.option("Its engine; server: OpenAI-compatible.")] = None,
    stages: Annotated[opt.Text, opt.option("Such as kd,collab,reward,ppo,items; default all.")] = None,
    variant: Annotated[
        opt.Text, opt.option("Of the profiler; of reclm, loss on both answers (mask) or the last (naive).")
    ] = None,
    out: Annotated[opt.File, opt.option("Folder to tune in; default in the workspace.")] = None,
    samples: Annotated[int, opt.option("Print so many samples of each stage only.", "--show", min=0)] = 0,
    dry_run: Annotated[bool, opt.option("Count and estimate; tune nothing.", "--dry-run")] = False,
    encoder: opt.EncoderName = None,
    config: Annotated[str, opt.option("A preset, or a YAML file; other options go first.")] = "auto",
    set_: Annotated[opt.Texts, opt.setting("Setting, as in kd.epochs=1.")] = None,
    trust: opt.Trust = False,
    home: opt.Home = None,
) -> None:
    """Tune a language model to write profiles, from a teacher's. Run again, it resumes."""
    from reclm.config import parse_settings
    from reclm.profiles.tune import open_tuner, tuning_lock, tuning_settings

    changes = parse_settings(set_ or []) | ({} if variant is None else {"variant": variant})
    sources = {"users": teacher, "items": teacher_items, "model": teacher_model, "engine": teacher_engine}
    sources = {key: value for key, value in sources.items() if value is not None}
    names = None if stages is None else [name.strip() for name in stages.split(",") if name.strip()]
    settings = tuning_settings(profiler, config, changes, teacher=sources or None, stages=names)
    data = reclm.load_dataset(dataset)
    tuner, folder = open_tuner(profiler, data, settings, out=out, model=model, encoder=encoder)
    if samples or dry_run:
        tuning = tuner.tuning(data.view())
        for part in tuning.sample_texts(samples) if samples else ():
            say(part)
        if dry_run:
            show(tuning.estimate())
            for line in tuning.cut_texts():
                say(line)
        return
    with tuning_lock(folder):
        tuning = tuner.tuning(data.view())
        tuning.run()
        results, command = tuning.results(), tuning.next_command()
    for part in results:
        say(part) if isinstance(part, str) else show(part)
    say(f"tuned in {folder}")
    opt.next_step(shlex.join(command), dataset=dataset)
