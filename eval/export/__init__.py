"""A study as files for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from charprobe_lite.models.errors import BadInput

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


FORMATS: dict[str, str | ExportFormat] = {
    "jsonl": "charprobe_lite.eval.export.jsonl",
    "parquet": "charprobe_lite.eval.export.parquet",
    "csv": "charprobe_lite.eval.export.csv",
    "inspect": "charprobe_lite.eval.export.inspect",
}
"""Each format by name, or the module whose ``FORMAT`` it is, which is imported when it is used."""


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
    BadInput for a study that cannot be read, an unknown format and a target that cannot be
    written.
    """
    from charprobe_lite.eval.store.reader import open_study
    from charprobe_lite.models.atomic import new_file, new_folder

    export_format = _export_format(name)
    if not export_format.messages and (prompts or scenarios):
        raise BadInput(f"--prompts, --scenarios: format {name} has no messages; use inspect")
    source = open_study(study) if isinstance(study, Path) else study
    ending = f"-{name}" if export_format.folder else f".{name}"
    target = target or source.path.with_name(source.path.stem + ending)
    if target.is_file() and target.samefile(source.path):
        raise BadInput(f"{target}: is the study itself; name another file")
    transcripts = _transcripts(source, prompts, scenarios) if export_format.messages else None
    with (new_folder if export_format.folder else new_file)(target) as part:
        export_format.write(source, part, transcripts)
    if transcripts and transcripts.mismatches and note:
        note(
            f"{', '.join(transcripts.mismatches)}: differ from the study's, so the messages to the "
            "model are left out; name --prompts and --scenarios"
        )
    return sorted(target.iterdir()) if export_format.folder else [target]


def _export_format(name: str) -> ExportFormat:
    if name not in FORMATS:
        raise BadInput(f"--format {name}: unknown; choose from {', '.join(FORMATS)}")
    entry = FORMATS[name]
    if isinstance(entry, ExportFormat):
        return entry
    export_format: ExportFormat = import_module(entry).FORMAT
    return export_format


def _transcripts(study: Study, prompts: str | None, scenarios: Path | None) -> Transcripts:
    from charprobe_lite.eval.conditions.transcript import Transcripts
    from charprobe_lite.models.prompts import prompt_file

    return Transcripts(study.provenance, prompt_file(prompts), scenarios)
