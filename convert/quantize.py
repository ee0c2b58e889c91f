"""Quant types: how a file of a type is written, and the record of a written file.

Block layouts and the choice of a type per tensor are llama.cpp's
(https://github.com/ggml-org/llama.cpp). It falls back to another type where a row is not a
multiple of a block: `models.gguf_header.weight_summary` reads the types that a file has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as QuantType
from numpy.typing import NDArray

from charprobe_lite.convert.imatrix import read_imatrix, refuse_other_model
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput, require_known
from charprobe_lite.models.gguf_header import PART_NAME, WeightSummary, read_header, weight_summary
from charprobe_lite.models.quant_types import EXACT_TYPES, QUANT_TYPES
from charprobe_lite.runtime.llama.quantizer import quantize_gguf

Array = NDArray[np.float32]
ROW_TYPES = {name: QuantType[name] for name in ("F32", "F16", "BF16", "Q8_0")}
"""Types that are written row by row, without a file in between."""
IMATRIX_TYPES = ("IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S")


@dataclass(frozen=True)
class LogitAgreement:
    """Two models on the same tokens: KL(reference || file) in nats per position, top-1 agreement
    in [0, 1], and the root mean square of the centred logits' difference over the reference's."""

    positions: int
    kl_mean: float
    kl_max: float
    top1: float
    relative_error: float


@dataclass(frozen=True)
class GGUFFile:
    """A written file: its size, the types its weights are stored as, and, for a model that was
    verified, its agreement with the original."""

    path: Path
    bytes: int
    weights: WeightSummary
    agreement: LogitAgreement | None = None


def written_file(path: Path, agreement: LogitAgreement | None = None) -> GGUFFile:
    """The record of a GGUF file on disk. Raises BadInput when it cannot be read."""
    return GGUFFile(path, path.stat().st_size, weight_summary(path), agreement)


def file_type(quant: str) -> int:
    """llama.cpp's number of a quant type. Raises BadInput for an unknown name."""
    require_known("--quant", quant, QUANT_TYPES)
    prefix = "ALL_" if quant == "F32" else "MOSTLY_"
    return int(gguf.LlamaFileType[prefix + quant])


def check_quant(quant: str, imatrix: Mapping[str, Array] | None) -> None:
    """Raises BadInput for a type that is unknown, or that lacks its importance matrix."""
    file_type(quant)
    if quant in IMATRIX_TYPES and not imatrix:
        raise BadInput(f"--quant {quant}: needs --imatrix FILE; make one: convert imatrix")


def tensor_type(shape: tuple[int, ...], quant: str) -> QuantType:
    """The type of a tensor in a file that is written row by row; vectors stay float32."""
    kind = ROW_TYPES[quant]
    if len(shape) < 2:
        return QuantType.F32
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return kind if shape[-1] % block == 0 else QuantType.F16


def quantize(
    model: str | Path,
    quant: str,
    target: str | Path | None = None,
    imatrix: str | Path | None = None,
    threads: int | None = None,
    *,
    allow_requantize: bool = False,
    force: bool = False,
) -> GGUFFile:
    """Quantize a GGUF model (F16 or better) to a quant type of llama.cpp.

    ``target`` is a file, or the folder for MODEL-QUANT.gguf [default: the model's folder].
    ``imatrix`` is an importance matrix, GGUF or .dat; ``threads`` defaults to all cores. The
    record says which types the weights are really stored as. Raises BadInput when llama.cpp
    refuses, when a type needs an importance matrix or it is another model's, when ``model`` is no
    GGUF model or is the target, when it is quantized already (unless ``allow_requantize``), and
    when the file exists (unless ``force``).
    """
    model = Path(model)
    if not allow_requantize:
        _refuse_quantized(model)
    importance = read_imatrix(Path(imatrix)) if imatrix else None
    file = Path(target) if target else model.parent
    if file.suffix != ".gguf" or file.is_dir():
        stem = Path(PART_NAME.sub(".gguf", model.name)).stem
        for name in QUANT_TYPES:
            stem = stem.removesuffix(f"-{name}").removesuffix(f".{name}")
        file = file / f"{stem}-{quant}.gguf"
    if file.resolve() == model.resolve():
        raise BadInput(f"{model}: is the file to write for --quant {quant}; name another -o")
    if file.exists() and not force:
        raise BadInput(f"{file}: exists already; name another -o, or replace it with --force")
    with new_file(file) as part:
        quantize_file(model, part, quant, importance, threads)
    return written_file(file)


def _refuse_quantized(model: Path) -> None:
    """Raises BadInput for a file whose matrices lost precision already, or that is no model."""
    types = weight_summary(model).tensor_types.keys() - EXACT_TYPES
    if types:
        raise BadInput(
            f"{model}: is quantized already ({', '.join(sorted(types))}), and a second loss adds "
            "to the first; take the F16 file, or --allow-requantize"
        )


def quantize_file(
    source: Path,
    target: Path,
    quant: str,
    imatrix: Mapping[str, Array] | None = None,
    threads: int | None = None,
) -> None:
    """Quantize a GGUF file with llama.cpp's quantizer, its mix of types included.

    ``imatrix`` has per tensor the mean square of its inputs, (in,). Raises BadInput when llama.cpp
    cannot quantize it, when a type needs an importance matrix, or when the file is no model.
    """
    check_quant(quant, imatrix)
    weight_summary(source)  # llama.cpp would abort the process on a file that is no model
    if imatrix:
        widths = {tensor.name: tensor.shape[0] for tensor in read_header(source).tensors}
        refuse_other_model(imatrix, widths, source)
    quantize_gguf(source, target, file_type(quant), imatrix, threads)
