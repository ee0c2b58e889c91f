"""What goes to stderr: notes, warnings, and with --verbose what the engines say."""

import logging
from typing import Any

import click

from charprobe_lite.models.errors import printable_lines

LOGGER = logging.getLogger("charprobe_lite")
LEVELS = ("debug", "info", "warning", "error")


class ClickHandler(logging.Handler):
    """Writes to the stderr of the moment, as click does."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(printable_lines(self.format(record)), err=True)


def _set_level(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    chosen = {"quiet": "warning", "verbose": "debug"}.get(parameter.name or "", value)
    if value:
        LOGGER.setLevel(chosen.upper())


def log_options() -> list[click.Option]:
    """-q, -v and --log-level, which every command takes."""
    shared: dict[str, Any] = {"expose_value": False, "callback": _set_level}
    return [
        click.Option(
            ["-q", "--quiet"], is_flag=True, help="No notes and no progress on stderr.", **shared
        ),
        click.Option(
            ["-v", "--verbose"], is_flag=True, help="Also what llama.cpp says, on stderr.", **shared
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(LEVELS, case_sensitive=False),
            help="What goes to stderr; info is the default, warning is -q, debug is -v.",
            **shared,
        ),
    ]


def shows_progress() -> bool:
    """Whether notes and progress are wanted."""
    return LOGGER.isEnabledFor(logging.INFO)


def begin() -> None:
    """Take over the package's log, at the level info."""
    if not LOGGER.handlers:
        LOGGER.addHandler(ClickHandler())
        LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO)
