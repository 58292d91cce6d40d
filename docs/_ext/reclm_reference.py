"""Sphinx directives that write reference pages from the code: commands, and the options of plug-ins."""

from collections.abc import Iterator
from typing import Any

import click
import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def commands(command: Any, path: tuple[str, ...] = ("reclm",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below ``command`` with the words that call it, hidden ones left out."""
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if child.hidden:
            continue
        yield (*path, name), child
        yield from commands(child, (*path, name))


def cell(text: object) -> str:
    """Return ``text`` as the content of one cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def option_row(parameter: Any, context: click.Context) -> str:
    """Return a Markdown table row: the option's spellings, its value, its help and default."""
    record = parameter.get_help_record(context) if parameter.param_type_name == "option" else None
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if record is None:
        names = f"`{parameter.human_readable_name.upper()}`"
    flag = getattr(parameter, "is_flag", False)
    choices = getattr(parameter.type, "choices", None)
    value = "" if flag else "\\|".join(f"`{choice}`" for choice in choices) if choices else ""
    if not flag and not value:
        value = cell(parameter.metavar or parameter.type.name)
    text = cell(getattr(parameter, "help", "") or "")
    default = parameter.default
    if getattr(parameter, "show_default", False) and default not in (None, False, (), []) and not callable(default):
        text += f" Default: `{default}`."
    if parameter.required:
        text += " Required."
    return f"| {names} | {value} | {text} |"


class CommandReference(SphinxDirective):
    """``{reclm-commands}``: a section a command, with its help text and a table of its options."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        from reclm.cli import app

        lines: list[str] = []
        for path, command in commands(typer.main.get_command(app)):
            context = click.Context(command, info_name=" ".join(path))
            lines += [f"{'#' * len(path)} `{' '.join(path)}`", "", command.help or "", ""]
            if hasattr(command, "commands"):
                continue
            rows = [
                option_row(parameter, context)
                for parameter in command.params
                if not getattr(parameter, "hidden", False) and parameter.name != "help"
            ]
            lines += ["| option | value | meaning |", "|---|---|---|", *rows, ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class PluginOptions(SphinxDirective):
    """``{reclm-options} KIND``: for each plug-in of a kind, a table of its options with their defaults."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        from reclm import plugins

        kind = self.arguments[0]
        lines: list[str] = []
        for name in plugins.names(kind):
            plugin = plugins.get(kind, name)
            summary = getattr(plugin, "summary", "") or (plugin.__doc__ or "").split("\n\n")[0]
            lines += [f"### `{name}`", "", " ".join(summary.replace("``", "`").split()), ""]
            lines += ["| option | default | meaning |", "|---|---|---|", *option_rows(plugin.Config), ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def option_rows(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield a Markdown table row for each field of a config class, nested ones by their dotted names."""
    for name, field in config.model_fields.items():
        nested = field.annotation
        if hasattr(nested, "model_fields"):
            yield from option_rows(nested, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = f"`{default!r}`" if default not in (None, "", ()) else ""
        text = (field.description or "").replace("``", "`")
        yield f"| `{prefix}{name}` | {cell(shown)} | {cell(text)} |"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("reclm-commands", CommandReference)
    app.add_directive("reclm-options", PluginOptions)
    return {"parallel_read_safe": True}
