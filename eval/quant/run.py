"""A quantization study from its spec to its findings: what ``quant-study`` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.measurement import Bar, label_again, measure_fidelity, measure_speed
from charprobe_lite.eval.quant.records import read_recordings, score_recordings
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import distinct_files
from charprobe_lite.eval.study.run import Display, run_rollouts
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.defaults import REFERENCE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import QUANT_TYPES


@dataclass(frozen=True)
class QuantFindings:
    """A quantization study that has run: its file, and what it finds."""

    path: Path
    findings: QuantStudy

    def as_json(self) -> dict[str, Any]:
        """The document that ``quant-study --json`` prints."""
        return {**self.findings.as_json(), "study": str(self.path)}


def run_quant_study(spec: StudySpec, display: Display, bar: Bar) -> QuantFindings:
    """Run what is missing of the rollouts and of the files' measurements, and compare with F16.

    ``bar`` shows the progress of the measurements. Raises BadInput.
    """
    refuse_without_reference(spec)
    finished = run_rollouts(spec, display)
    resolved = finished.spec
    with Store(finished.path) as store:
        store.note({"margin": spec.margin})
        measure_speed(store, finished.files, resolved, bar)
        texts = measure_fidelity(store, finished.files, resolved, spec.texts or 0, bar)
        label_again(store, finished.files[0], resolved, bar)
        rollouts = {task.key for task in finished.tasks}
        files = {(each.quant, each.lora) for each in distinct_files(finished.files)}
        recordings = read_recordings(store).select(rollouts, files, texts)
    findings = score_recordings(recordings, resolved.personas, spec.margin, resolved.seed)
    if findings is None:
        raise BadInput(
            f"{finished.path}: holds no rollout of {REFERENCE} and another type to compare"
        )
    return QuantFindings(finished.path, findings)


def refuse_without_reference(spec: StudySpec) -> None:
    """BadInput for a quantization study in which nothing can be compared."""
    if not spec.is_quant_study:
        return
    quants = select_names(spec.quants, QUANT_TYPES, "--quant")
    if REFERENCE not in quants:
        raise BadInput(
            f"--quant: needs {REFERENCE}, which all others are compared with; name it, or a "
            "larger --budget"
        )
    if quants == [REFERENCE]:
        raise BadInput(f"--quant {REFERENCE}: add types to compare with it, such as Q8_0,Q4_0")
