"""A study as files for other programs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING

from charprobe_lite.models.errors import BadInput, require_known

if TYPE_CHECKING:
    from charprobe_lite.eval.conditions.transcript import Transcripts
    from charprobe_lite.eval.store.reader import Study


@dataclass(frozen=True)
class ExportFormat:
    """A file format: ``write`` fills one file, or for ``folder`` an empty folder with many.

    The transcripts are those of the study's rollouts, None unless the format has ``messages``.
    """

    write: Callable[[Study, Path, Transcripts | None], None]
    folder: bool = False
    messages: bool = False


FORMATS: dict[str, ExportFormat | None] = dict.fromkeys(("jsonl", "parquet", "csv", "inspect"))
"""The formats by name; None for the ``FORMAT`` of the module of that name, not imported yet."""
EXTRAS = {"pyarrow": "tables", "inspect_ai": "inspect"}


def register(name: str, export_format: ExportFormat) -> None:
    """Add a format to those that ``export_study`` knows."""
    FORMATS[name] = export_format


def export_study(
    study: Path | Study,
    name: str = "jsonl",
    target: Path | None = None,
    prompts: str | None = None,
    scenarios: Path | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write a study in the format of this ``name`` and give the files that were written.

    ``target`` is the file, or the new folder of a format with many; without it ``STUDY.FORMAT``
    or ``STUDY-FORMAT``. ``prompts`` and ``scenarios`` are those of the study where they are not
    the shipped ones, for formats with messages; ``note`` is told what is missing of these. Raises
    BadInput for a study that cannot be read, an unknown format or one whose package is missing, and
    a target that cannot be written.
    """
    from charprobe_lite.eval.conditions.transcript import Transcripts
    from charprobe_lite.eval.store.reader import open_study
    from charprobe_lite.models.atomic import new_file, new_folder
    from charprobe_lite.models.prompts import prompt_file

    export_format = _export_format(name)
    if not export_format.messages and (prompts or scenarios):
        raise BadInput(f"--prompts, --scenarios: format {name} has no messages; use inspect")
    source = open_study(study) if isinstance(study, Path) else study
    ending = f"-{name}" if export_format.folder else f".{name}"
    target = target or source.path.with_name(source.path.stem + ending)
    if target.is_file() and target.samefile(source.path):
        raise BadInput(f"{target}: is the study itself; name another file")
    transcripts = None
    if export_format.messages:
        transcripts = Transcripts(source.provenance, prompt_file(prompts), scenarios)
    with (new_folder if export_format.folder else new_file)(target) as part:
        export_format.write(source, part, transcripts)
    if transcripts and transcripts.mismatches and note:
        note(
            f"{', '.join(transcripts.mismatches)}: differ from the study's, so the messages to the "
            "model are left out; name --prompts and --scenarios"
        )
    return sorted(target.iterdir()) if export_format.folder else [target]


def export_to(stream: IO[bytes], study: Study, name: str) -> None:
    """Write a study in a format of one file to a stream. Raises BadInput as `export_study`."""
    if _export_format(name).folder:
        raise BadInput(f"--output -: format {name} is a folder; name a new one")
    with TemporaryDirectory() as folder:
        [file] = export_study(study, name, Path(folder) / name)
        with file.open("rb") as content:
            shutil.copyfileobj(content, stream)


def _export_format(name: str) -> ExportFormat:
    require_known("--format", name, FORMATS)
    try:
        return FORMATS[name] or import_module(f"{__name__}.{name}").FORMAT
    except ModuleNotFoundError as error:
        raise BadInput(
            f"--format {name}: {error.name} is not installed; "
            f"pip install 'charprobe-lite[{EXTRAS.get(str(error.name), name)}]'"
        ) from None
