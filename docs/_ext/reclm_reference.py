"""Sphinx directives that write reference pages from the code: commands, and the options of plug-ins."""

import re
from collections.abc import Iterator
from typing import Any

import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PIPE = "\\|"


def commands(command: Any, path: tuple[str, ...] = ("reclm",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below ``command`` with the words that call it, hidden ones left out."""
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if child.hidden:
            continue
        yield (*path, name), child
        yield from commands(child, (*path, name))


def cell(text: object) -> str:
    """Return ``text`` as the content of one cell of a Markdown table, names of options as code."""
    line = " ".join(str(text).split()).replace("|", PIPE).replace("*", "\\*").replace("<", "&lt;")
    return re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"`\g<0>`", line)


def option_row(parameter: Any, context: Any) -> str:
    """Return a Markdown table row: how an option or argument is written, and its help text with the default."""
    spelling, text = parameter.get_help_record(context)
    return f"| `{spelling.replace('|', PIPE)}` | {cell(text)} |"


class CommandReference(SphinxDirective):
    """``{reclm-commands}``: a section a command, with its help text and a table of its options."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        from reclm.cli import app

        lines: list[str] = []
        for path, command in commands(typer.main.get_command(app)):
            lines += [f"{'#' * len(path)} `{' '.join(path)}`", "", command.help or "", ""]
            if hasattr(command, "commands") and not command.invoke_without_command:
                continue
            context = command.make_context(" ".join(path), [], resilient_parsing=True)
            rows = [
                option_row(parameter, context)
                for parameter in command.params
                if not getattr(parameter, "hidden", False) and parameter.name != "help"
            ]
            lines += ["| option | meaning |", "|---|---|", *rows, ""]
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
