"""What adapters of a technique are trained on, and what they are evaluated on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from charprobe_lite.convert.cached import prepare_model
from charprobe_lite.convert.safetensors import open_checkpoint
from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models.catalogue import EMBEDDED, load_catalogue
from charprobe_lite.models.defaults import QUANT, REFERENCE
from charprobe_lite.models.files import expanded
from charprobe_lite.models.hub import fetch

if TYPE_CHECKING:
    from charprobe_lite.convert.train.technique_training import TrainingBase


def technique_base(base: str) -> TrainingBase:
    """What adapters of a base are trained on: of the embedded one, the kit's with its tool use.

    ``base`` is a catalogue name, a checkpoint folder or a GGUF file. Raises BadInput.
    """
    from charprobe_lite.convert.train.technique_training import TrainingBase

    if _is_embedded(base):
        return TrainingBase(base, kit_base(REFERENCE), is_kit=True)
    return TrainingBase(*training_files(base))


def training_files(base: str) -> tuple[str, Path, Path | None]:
    """The name of a base, its GGUF file, and the checkpoint folder to train on, if there is one.

    A folder's GGUF file is made once and cached. Of a multimodal one only the language model is
    trained, which the GGUF file has alone. Raises BadInput.
    """
    name, path = _located(base)
    if not path.is_dir():
        return name, path, None
    gguf = prepare_model(name, path, [], REFERENCE, verify=False)
    is_multimodal = "text_config" in open_checkpoint(path).config
    return name, gguf, None if is_multimodal else path


def evaluation_model(base: str, quant: str | None) -> Path:
    """The GGUF file that adapters of a base are evaluated on: a file as it is, or made as a quant
    type. Raises BadInput."""
    if _is_embedded(base):
        return kit_base(quant or QUANT)
    name, path = _located(base)
    return prepare_model(name, path, [], quant or QUANT) if path.is_dir() else path


def _is_embedded(base: str) -> bool:
    return base == EMBEDDED and not expanded(Path(base)).exists()


def _located(base: str) -> tuple[str, Path]:
    """The name of a base, and its folder or file; one of the catalogue is fetched."""
    path = expanded(Path(base))
    if not path.exists():
        path = fetch(load_catalogue().base(base))
    if not path.is_dir():
        return base, path
    return re.sub(r"[^a-z0-9._-]+", "-", Path(base).name.lower()).strip("-._") or "base", path
