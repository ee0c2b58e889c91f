"""The command reference in Markdown: `python -m charprobe_lite.eval.cli.reference`."""

import inspect
import re
from collections.abc import Iterator

import click

from charprobe_lite.eval.cli.main import main

INTRODUCTION = """\
# Commands

This page is generated from the commands' own help (`charprobe-lite COMMAND --help`).

Options that take `NAME[,NAME]` can be repeated, and take `all` for every name. A command that
refuses its input prints one line (for a wrong option the usage, too) and ends with status 2; an
interrupt ends it with status 130.

Every command takes `-q` (`--quiet`: no notes and no progress on stderr), `-v` (`--verbose`: also
what llama.cpp says) and `--log-level debug|info|warning|error`.

Shell completion for bash: `eval "$(_CHARPROBE_LITE_COMPLETE=bash_source charprobe-lite)"`.
"""


STATED_DEFAULT = re.compile(r"\s*\[default: ([^\]]*)\]")
EVERYWHERE = {"--help", "--quiet", "--verbose", "--log-level"}
BAR = r"\|"
"""A bar inside a cell of a Markdown table."""


def reference() -> str:
    """Every command with its usage, help text, arguments and options."""
    context = click.Context(main, info_name="charprobe-lite", **main.context_settings)
    return "\n".join([INTRODUCTION, *_sections(context)])


def _sections(parent: click.Context) -> Iterator[str]:
    """The commands of a group, each followed by its own."""
    assert isinstance(parent.command, click.Group)
    for name, command in sorted(parent.command.commands.items()):
        context = click.Context(command, info_name=name, parent=parent)
        yield _section(context)
        if isinstance(command, click.Group):
            yield from _sections(context)


def _section(context: click.Context) -> str:
    command = context.command
    heading = "#" * (1 + context.command_path.count(" "))
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [row for each in command.get_params(context) if (row := _option(each, context))]
    parts = [f"{heading} `{context.command_path}`\n", f"    {usage}\n", _text(command.help or "")]
    if options:
        parts += ["| option | value | default | meaning |\n|---|---|---|---|", *options, ""]
    return "\n".join(parts)


def _option(parameter: click.Parameter, context: click.Context) -> str | None:
    """An option as a row of the table; None for arguments and for EVERYWHERE."""
    if not isinstance(parameter, click.Option) or {*parameter.opts} & EVERYWHERE:
        return None
    extra = parameter.get_help_extra(context)
    flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    value = "" if parameter.is_flag else f"`{parameter.make_metavar(context)}`"
    if "range" in extra:
        value = f"{value.replace(' RANGE', '')} {extra['range']}"
    default = "required" if extra.get("required") else extra.get("default", "")
    meaning = parameter.help or ""
    if stated := STATED_DEFAULT.search(meaning):
        default, meaning = stated[1], STATED_DEFAULT.sub("", meaning)
    cells = (flags, value, default, meaning.strip())
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _text(text: str) -> str:
    r"""A help text as Markdown: a paragraph that begins with \b is a block of code."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if block.startswith("\b"):
            lines = block.removeprefix("\b").strip("\n").splitlines()
            blocks.append("\n".join(f"    {line}".rstrip() for line in lines))
        else:
            blocks.append(block)
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
