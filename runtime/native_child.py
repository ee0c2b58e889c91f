"""The process that tries a file of native code: loads it, computes one step, and says no more."""

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from charprobe_lite.models.errors import BadInput

MEMORY = 2 * 1024**3
"""Bytes that a library may take beyond the size of the files, and twice that for a classifier."""
TEXT = "Thank you for the report; it reads well."
LONG = 200  # repeats: more tokens than most classifiers read


def main() -> None:
    """Try the files of ``KIND BYTES FILE...``. Raises BadInput for what is wrong with one."""
    kind, size, *files = sys.argv[1:]
    _limit_memory(int(size))
    paths = [Path(file) for file in files]
    _try_model(paths) if kind == "model" else _try_classifier(paths[0])


def _try_model(files: Sequence[Path]) -> None:
    from charprobe_lite.runtime.llama import Context, Model, Segment

    with closing(Model(files[0], repack=False, tried=True)) as model:
        tokens = model.tokenize(TEXT)[:8] or [0]
        with closing(Context(model, length=64, threads=2)) as context:
            context.use_adapters(files[1:])
            last = [False] * (len(tokens) - 1) + [True]
            if not np.isfinite(context.decode([Segment(0, 0, tokens, last)])).all():
                raise BadInput(f"{files[-1]}: the model's logits are not numbers; is it damaged?")


def _try_classifier(model: Path) -> None:
    from charprobe_lite.runtime.classifier import Classifier

    classifier = Classifier(model.parent, model.name, threads=1, device="cpu", tried=True)
    classifier.classify([TEXT, TEXT * LONG])


def _limit_memory(size: int) -> None:
    """Where the system has such a limit: mapped files do not count."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = MEMORY + 2 * size
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
