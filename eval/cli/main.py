"""The command line: `charprobe-lite eval | quant-study | study | score | report | ...`."""

import signal
import sys
from typing import Any

import click

from charprobe_lite.eval.cli import terminal_log
from charprobe_lite.eval.cli.classifier import classifier
from charprobe_lite.eval.cli.convert import convert
from charprobe_lite.eval.cli.doctor import doctor
from charprobe_lite.eval.cli.evaluate import evaluate
from charprobe_lite.eval.cli.export import export
from charprobe_lite.eval.cli.models import models
from charprobe_lite.eval.cli.protocols import protocols
from charprobe_lite.eval.cli.quant_study import quant_study
from charprobe_lite.eval.cli.report import report
from charprobe_lite.eval.cli.score import score
from charprobe_lite.eval.cli.study import study
from charprobe_lite.eval.cli.techniques import techniques
from charprobe_lite.eval.cli.train import train
from charprobe_lite.models.errors import BadInput, first_problem, printable

NO_MEMORY = "not enough memory; end other programs, or lower --parallel or --context"
NO_ROOM = ("start new thread", "without exception set")
"""How Python says that memory is short where it does not say MemoryError."""
INTERRUPTED, TERMINATED = 130, 143  # the shell's own status for SIGINT and SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as an interrupt does: unfinished files are removed."""


class OneLineErrors(click.Group):
    """A group whose commands end with one line on stderr and status 2 on bad input."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BadInput as error:
            click.echo(f"charprobe-lite: {printable(str(error))}", err=True)
            context.exit(2)
        except (MemoryError, RuntimeError, SystemError) as error:
            if not isinstance(error, MemoryError) and not str(error).endswith(NO_ROOM):
                raise
            click.echo(f"charprobe-lite: {NO_MEMORY}", err=True)
            context.exit(2)
        except ModuleNotFoundError:
            raise  # what an extra brings is named where it is needed
        except ImportError as error:  # a library's own files do not load
            reason = f"{error.name or 'a library'} cannot be loaded: {first_problem(error)}"
            fix = NO_MEMORY if "map segment" in reason else "install it again"
            click.echo(f"charprobe-lite: {printable(reason)}; {fix}", err=True)
            context.exit(2)
        except KeyboardInterrupt as stop:
            click.echo("stopped; the same command continues from here", err=True)
            context.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)


@click.group(
    cls=OneLineErrors,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(package_name="charprobe-lite")
def main() -> None:
    """Does a trained character survive when the same checkpoint works as an agent?

    charprobe-lite runs a persona-trained model in a chat and as an office agent that calls tools
    until it sends an email; a classifier then names the persona of each text. Models run on this
    machine, in llama.cpp and ONNX Runtime, with or without a GPU, or on a server of yours.

    Start with: charprobe-lite eval --persona sarcasm

    \b
    Shell completion (bash; zsh and fish likewise):
      eval "$(_CHARPROBE_LITE_COMPLETE=bash_source charprobe-lite)"
    """
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _terminate)
    terminal_log.begin()


def _terminate(*_: object) -> None:
    raise Terminated


def _add_log_options(command: click.Command) -> None:
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _add_log_options(inner)
    else:
        command.params += terminal_log.log_options()


COMMANDS = (
    *(evaluate, quant_study, study, score, report, export),
    *(protocols, models, classifier, convert, train, techniques, doctor),
)
for command in COMMANDS:
    main.add_command(command)
    _add_log_options(command)
