"""The memory that a study needs while it runs."""

import os

from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.eval.study.variants import Variant
from charprobe_lite.models.catalogue_schema import Base
from charprobe_lite.models.defaults import PARALLEL
from charprobe_lite.models.gguf_header import stored_parts
from charprobe_lite.models.size_estimates import compute_bytes, file_bytes, kv_bytes

REST = 250e6  # bytes: the classifiers, their libraries and Python, in a study of the kit
UNKNOWN_BUFFER = 280e6  # bytes: as Llama 3.1 8B has, for a base without a shape


class Memory(dict[str, float]):
    """Bytes of memory by what needs them."""

    @property
    def total(self) -> int:
        return round(sum(self.values()))

    def __str__(self) -> str:
        return ", ".join(f"{name} {size_text(size)}" for name, size in self.items())


def study_memory(
    base: Base, variant: Variant, spec: StudySpec, parallel: int | None = None
) -> Memory:
    """Memory when most is needed; without a shape the KV cache is unknown.

    ``parallel`` is the number of rollouts at once, by default the spec's.
    """
    number, shape = parallel or spec.parallel or PARALLEL, base.shape
    if spec.gguf and not spec.makes_models:
        weights = sum(part.stat().st_size for part in stored_parts(spec.gguf))
    else:
        weights = file_bytes(base, variant.quant)
    cache = kv_bytes(shape, spec.context, number, variant.kv_type) if shape else 0
    buffer = compute_bytes(shape, spec.context) if shape else UNKNOWN_BUFFER
    return Memory({"weights": weights, "KV cache": cache, "classifier and buffers": REST + buffer})


def installed_memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def size_text(size: float) -> str:
    """Bytes for a message."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
