"""What a study runs on: model files, adapters and the classifier, found or made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import EMBEDDED
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_file import weights
from charprobe_lite.runtime.classifier import classifier_files


@dataclass(frozen=True)
class Files:
    """The files of a study: one model, an adapter per (stage, persona), one classifier."""

    base: str
    quant: str
    model: Path
    classifier: Path
    classifier_file: str | None
    adapters: dict[tuple[str, str], Path | None]

    def hashes(self) -> dict[str, str | None]:
        """sha256 of every file that decides a result, by its role; None for no adapter.

        Raises BadInput naming a file that cannot be read.
        """
        found: dict[str, str | None] = {"model": _digest(self.model)}
        for (stage, persona), path in self.adapters.items():
            if stage != "base":
                found[f"adapter {stage}/{persona}"] = _digest(path) if path else None
        for path in classifier_files(self.classifier, self.classifier_file):
            role = "classifier" if path.suffix == ".onnx" else f"classifier {path.name}"
            found[role] = _digest(path)
        return found


def kit_files(
    stages: list[str],
    personas: list[str],
    quant: str,
    adapter: Path | None,
    note: Callable[[str], None],
) -> Files:
    """The embedded base with the kit's adapters, or a user's own, and the kit's classifier.

    The base with tool use merged in is made at first use and cached.
    """
    _refuse_several(adapter, stages, personas)
    model = kit.merged_base_file(quant)
    if not model.is_file():
        note(f"preparing {EMBEDDED} as {quant} (once): {model}")
        make_merged_base(model, quant)
    return Files(
        base=EMBEDDED,
        quant=quant,
        model=model,
        classifier=kit.kit_folder() / "classifier",
        classifier_file=kit.load_kit().classifier_file,
        adapters={
            (stage, persona): _chosen(adapter, persona, stage)
            for stage in stages
            for persona in personas
        },
    )


def own_files(
    base: str,
    model: Path,
    adapter: Path | None,
    stages: list[str],
    personas: list[str],
) -> Files:
    """A user's GGUF model, with an adapter or as the checkpoint itself, and the kit's classifier.

    Raises BadInput when one model or adapter would have to be several checkpoints.
    """
    _refuse_several(adapter, stages, personas)
    if not adapter and (len(stages) > 1 or (stages != ["base"] and len(personas) > 1)):
        raise BadInput(
            f"--gguf {model}: is one checkpoint; name one --stage and one --persona, "
            "or add --adapter"
        )
    return Files(
        base=base,
        quant=weights(model).name,
        model=model,
        classifier=kit.kit_folder() / "classifier",
        classifier_file=kit.load_kit().classifier_file,
        adapters={
            (stage, persona): adapter if stage != "base" else None
            for stage in stages
            for persona in personas
        },
    )


def _digest(path: Path) -> str:
    try:
        return kit.sha256_file(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None


def _chosen(adapter: Path | None, persona: str, stage: str) -> Path | None:
    return adapter if adapter and stage != "base" else kit.adapter_file(persona, stage)


def _refuse_several(adapter: Path | None, stages: list[str], personas: list[str]) -> None:
    trained = [stage for stage in stages if stage != "base"]
    if adapter and (len(trained) != 1 or len(personas) != 1):
        raise BadInput(f"--adapter {adapter}: is one checkpoint; name one --persona, one --stage")


def make_merged_base(target: Path, quant: str) -> None:
    """Merge the tool-use adapter into the embedded base; a second process waits for the first."""
    from charprobe_lite.convert.merge import merge
    from charprobe_lite.convert.output import FOREVER

    tool_use = kit.kit_folder() / kit.TOOL_USE
    merge(kit.embedded_base(), [tool_use], target, quant, wait=FOREVER)
