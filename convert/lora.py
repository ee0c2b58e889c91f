"""LoRA adapters as changes of GGUF tensors, from a PEFT folder or a GGUF LoRA file.

LoRA: Hu et al. 2021, arXiv 2106.09685; rank-stabilised scaling: Kalajdzievski 2023,
arXiv 2312.03732. PEFT's format: adapter_config.json and adapter_model.safetensors.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd, prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.safetensors import SafetensorsTensor, open_safetensors, read_object
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.gguf_header import GGUFTensor, MappedGGUF, read_gguf

Array = NDArray[np.float32]
Rows = Callable[[int, int], Array]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
PEFT_TIES = ("embed_tokens", "lm_head")
"""The modules that PEFT's ``ensure_weight_tying`` is about, by the ends of their names."""
ORIGINAL = ".original_module."
"""What PEFT names the base's module next to a trained copy of it."""
SIDE = re.compile(r"\.lora_(?:([AB])\.weight|embedding_([AB]))\Z")
# initialisations that rewrite the base
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
OTHER_SUMS = (
    *("lora_bias", "fan_in_fan_out", "layer_replication", "trainable_token_indices"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config"),
    *("velora_config", "arrow_config", "target_parameters", "megatron_config"),
)
"""Fields of PEFT under which a LoRA is more, or something else, than ``W + scale * B @ A``."""
PATTERN = re.compile(r"[\w.\\$^|()*+?\[\]-]{1,200}")
BLOCK = 1 << 22  # numbers that are checked at once
# what may take for ever to match: a repeated group, and many repetitions
REPEATED_GROUP, REPETITION = re.compile(r"\)[*+{]|[*+}][*+{]"), re.compile(r"(?<!\\)[*+{]")
MAX_REPETITIONS = 3


@dataclass(frozen=True)
class Matrix:
    """(rows, columns) and ``rows(first, end)``, float32.

    Rows are read on demand: an adapter of a large model is as large as a small model.
    """

    shape: tuple[int, ...]
    rows: Rows


Source = Matrix | SafetensorsTensor
"""What has a shape, and rows that are read on demand."""


def in_memory(values: Array) -> Matrix:
    """An array as a matrix."""
    return Matrix(values.shape, lambda first, end: values[first:end])


def ordered(source: Source, name: str, architecture: Architecture) -> Matrix:
    """A checkpoint's matrix with its rows in the order of the GGUF tensor ``name``."""
    order = architecture.row_order(name, source.shape[0])
    if order is None:
        return Matrix(source.shape, source.rows)

    def rows(first: int, end: int) -> Array:
        places = order[first:end]
        lowest = int(places.min())
        return source.rows(lowest, int(places.max()) + 1)[places - lowest]

    return Matrix(source.shape, rows)


def dequantized(tensor: GGUFTensor, source: MappedGGUF, file: Path) -> Matrix:
    """A matrix of a GGUF file; its rows raise BadInput for a type that gguf cannot read."""
    encoded, shape = source.rows(tensor), tensor.shape[::-1] or (1,)

    def rows(first: int, end: int) -> Array:
        # gguf works on 16 rows at a time; wider ones, of whole blocks too, save a third of the time
        wide = encoded[first:end].reshape((end - first) // gcd(end - first, 4), -1)
        try:
            values = gguf.dequantize(wide, tensor.kind)
        except NotImplementedError:
            raise BadInput(
                f"{file}: tensor {tensor.name}: type {tensor.kind.name} cannot be read "
                "back; name an F16, Q8_0 or K-type file"
            ) from None
        return np.asarray(values, dtype=np.float32).reshape(-1, *shape[1:])

    return Matrix(shape, rows)


def transposed(source: Source) -> Matrix:
    """A matrix with rows and columns swapped; every block of it reads all of the other."""
    count = source.shape[0]
    return Matrix(source.shape[::-1], lambda first, end: source.rows(0, count).T[first:end])


@dataclass(frozen=True)
class Delta:
    """``scale * b @ a`` is added to a tensor: ``a`` (rank, in), ``b`` (out, rank).

    Rows are in GGUF order. An embedding's delta belongs to the input only: a tied output keeps
    the base's numbers, as in the model that was trained.
    """

    a: Matrix
    b: Matrix
    scale: float

    @property
    def rank(self) -> int:
        """Rows of ``a``."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in) of the tensor it belongs to."""
        return self.b.shape[0], self.a.shape[1]

    def rows(self, first: int, end: int) -> Array:
        """Rows first..end of the change."""
        scaled = np.float32(self.scale) * self.b.rows(first, end)
        return np.asarray(scaled @ self.a.rows(0, self.rank), dtype=np.float32)


class Replacement(Matrix):
    """A complete tensor that takes the place of the base's (PEFT's ``modules_to_save``)."""


@dataclass(frozen=True)
class Adapter:
    """An adapter's changes by GGUF tensor name.

    ``base`` has tensors of the base that the adapter was trained with, which PEFT keeps beside it:
    trained biases, embeddings whose vocabulary was changed, and embeddings that were trained
    together with the output. A tied output follows them.
    """

    path: Path
    changes: dict[str, Delta | Replacement]
    base: dict[str, Replacement] = dataclasses.field(default_factory=dict)


def read_adapter(path: Path, architecture: Architecture) -> Adapter:
    """Read a PEFT folder or a GGUF LoRA file for a base of this architecture.

    Raises BadInput naming the file and the field for a missing or broken file, another method
    than LoRA, DoRA, pickled weights, a tensor that the architecture does not have.
    """
    if path.is_dir():
        return _read_peft(path, architecture)
    if path.suffix in (".bin", ".pt", ".pth"):
        raise BadInput(f"{path}: pickled adapters are never opened; save it as safetensors")
    return _read_gguf(path, architecture)


def _read_peft(folder: Path, architecture: Architecture) -> Adapter:
    config = read_object(folder / CONFIG)
    _refuse_variants(config, folder / CONFIG)
    weights = folder / WEIGHTS
    if not weights.is_file() and (folder / "adapter_model.bin").is_file():
        raise BadInput(
            f"{folder / 'adapter_model.bin'}: pickled adapters are never opened; "
            "save it with safe_serialization=True"
        )
    stored = open_safetensors(weights)
    modules: dict[tuple[str, str], dict[str, SafetensorsTensor]] = {}
    changes: dict[str, Delta | Replacement] = {}
    base: dict[str, Replacement] = {}
    for name, tensor in stored.items():
        module, side = _split(name.removeprefix(PREFIX))
        target = _gguf_name(module, side, architecture, weights)
        if target is None:
            continue
        if not tensor.shape:
            raise BadInput(f"{weights}: tensor {name}: a single number; save the adapter again")
        _refuse_not_finite(tensor, name, weights)
        if side is None:
            rows = ordered(tensor, target, architecture).rows
            is_copy = ORIGINAL not in name and is_module_to_save(module, config)
            is_copy = is_copy and not is_tied_by_peft(module, config)
            (changes if is_copy else base)[target] = Replacement(tensor.shape, rows)
        else:
            modules.setdefault((target, module), {})[side] = tensor
    for (target, module), sides in modules.items():
        changes[target] = _delta(module, sides, config, architecture, weights)
    if not changes and not base:
        raise BadInput(f"{weights}: holds nothing that changes the language model")
    return Adapter(folder, changes, base)


def is_module_to_save(module: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT trained a copy of the module, which a tied output does not follow."""
    saved = config.get("modules_to_save") or []
    return any(module.rsplit(".", 1)[0].endswith(str(name)) for name in saved)


def is_tied_by_peft(module: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT lets a tied output follow this saved module (``ensure_weight_tying``)."""
    is_tied = module.rsplit(".", 1)[0].endswith(PEFT_TIES)
    return is_tied and bool(config.get("ensure_weight_tying"))


def _refuse_not_finite(source: Source, name: str, file: Path) -> None:
    """Raises BadInput for a tensor with NaN or infinity."""
    step = max(1, BLOCK // max(1, prod(source.shape[1:])))
    for first in range(0, source.shape[0], step):
        if not np.isfinite(source.rows(first, min(first + step, source.shape[0]))).all():
            raise BadInput(f"{file}: tensor {name}: holds NaN or infinity; train the adapter again")


def _refuse_variants(config: dict[str, Any], file: Path) -> None:
    """One line for every variant of PEFT whose sum is not ``W + scale * B @ A``."""
    if config.get("peft_type") != "LORA":
        raise BadInput(f"{file}: field peft_type: {config.get('peft_type')}, only LORA is merged")
    if config.get("use_dora"):
        raise BadInput(f"{file}: field use_dora: DoRA is not supported; merge it with peft first")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        raise BadInput(
            f"{file}: field init_lora_weights: {start} changes the weights of the base; "
            "save the adapter as a plain LoRA (peft: path_initial_model_for_weight_conversion)"
        )
    for field in OTHER_SUMS:
        if config.get(field):
            raise BadInput(f"{file}: field {field}: not supported; merge the adapter with peft")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 0 < rank <= 65536:
        raise BadInput(f"{file}: field r: {str(rank)[:40]} is not a rank")
    if not isinstance(alpha, int | float) or not 0 < alpha <= 1e6:
        raise BadInput(f"{file}: field lora_alpha: {str(alpha)[:40]} is not a positive number")
    for field in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(field) or {}
        if not isinstance(patterns, dict):
            raise BadInput(f"{file}: field {field}: not an object")
        for pattern, value in patterns.items():
            _check_pattern(pattern, value, f"{file}: field {field}")


def _check_pattern(pattern: str, value: Any, field: str) -> None:
    usable = (
        PATTERN.fullmatch(pattern)
        and not REPEATED_GROUP.search(pattern)
        and len(REPETITION.findall(pattern)) <= MAX_REPETITIONS
    )
    if not usable or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise BadInput(f"{field}: {pattern[:80]!r}: {str(value)[:40]} cannot be used")
    with bad_input(f"{field}: {pattern[:80]!r}", re.error):
        re.compile(pattern)


def _split(name: str) -> tuple[str, str | None]:
    """("layers.0.self_attn.q_proj.weight", its side), None for a tensor saved complete."""
    if side := SIDE.search(name):
        return f"{name[: side.start()]}.weight", side[1] or side[2]
    return plain_name(name), None


def plain_name(name: str) -> str:
    """A saved tensor's name in the model that PEFT wrapped."""
    plain = name.replace(".modules_to_save.", ".").replace(".default.", ".")
    return plain.replace(".base_layer.", ".").replace(ORIGINAL, ".")


def _gguf_name(module: str, side: str | None, architecture: Architecture, file: Path) -> str | None:
    try:
        return architecture.tensor_name(module)
    except KeyError:
        part = f" (lora {side})" if side else ""
        raise BadInput(
            f"{file}: tensor {module}{part}: {architecture.name} with {architecture.layers} layers "
            "does not have it; name an adapter of this base"
        ) from None


def _delta(
    module: str,
    sides: dict[str, SafetensorsTensor],
    config: dict[str, Any],
    architecture: Architecture,
    file: Path,
) -> Delta:
    if set(sides) != {"A", "B"}:
        raise BadInput(f"{file}: tensor {module}: lora {'B' if 'A' in sides else 'A'} is missing")
    if any(len(tensor.shape) != 2 for tensor in sides.values()):
        raise BadInput(f"{file}: tensor {module}: not a matrix")
    a, b = sides["A"], sides["B"]
    path = module.removesuffix(".weight")
    rank = _of_pattern(config.get("rank_pattern") or {}, path, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern") or {}, path, config["lora_alpha"])
    if a.shape[0] != rank or b.shape[1] != rank:
        raise BadInput(
            f"{file}: tensor {module}: ranks {a.shape[0]} and {b.shape[1]}, {CONFIG} says {rank}"
        )
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    if sides["A"].name.endswith("lora_embedding_A"):  # (rank, vocabulary), (width, rank)
        return Delta(transposed(b), transposed(a), scale)
    return peft_delta(module, a, b, scale * a.shape[0], architecture)[1]


def peft_delta(
    module: str, a: Source, b: Source, alpha: float, architecture: Architecture
) -> tuple[str, Delta]:
    """GGUF name and change of a module's LoRA pair, ``a`` (rank, in) and ``b`` (out, rank)."""
    name = str(architecture.tensor_name(module.removeprefix(PREFIX)))
    b = ordered(b, name, architecture)
    return name, Delta(Matrix(a.shape, a.rows), b, alpha / a.shape[0])


def _of_pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    """The first pattern that matches the end of the module's name, as PEFT looks it up."""
    values = (patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", module))
    return float(next(values, default))


def _read_gguf(path: Path, architecture: Architecture) -> Adapter:
    source = read_gguf(path)
    fields = source.header.fields
    if gguf.Keys.Adapter.LORA_ALPHA not in fields:
        raise BadInput(f"{path}: field {gguf.Keys.Adapter.LORA_ALPHA}: missing; not a GGUF LoRA")
    name = fields.get("general.architecture")
    if name != architecture.name:
        raise BadInput(
            f"{path}: field general.architecture: {name}, the base is "
            f"{architecture.name}; name an adapter of this base"
        )
    alpha = fields[gguf.Keys.Adapter.LORA_ALPHA]
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1e6:
        raise BadInput(f"{path}: field {gguf.Keys.Adapter.LORA_ALPHA}: {str(alpha)[:40]}")
    tensors = source.header.tensors
    matrices = {tensor.name: dequantized(tensor, source, path) for tensor in tensors}
    changes: dict[str, Delta | Replacement] = {}
    for name, a in matrices.items():
        if not name.endswith(".lora_a"):
            continue
        tensor = name.removesuffix(".lora_a")
        b = matrices.get(f"{tensor}.lora_b")
        # of an embedding they are (vocabulary, rank) and (width, rank)
        axis = 1 if tensor == EMBEDDING else 0
        if b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[axis] != b.shape[1]:
            raise BadInput(f"{path}: tensor {tensor}: no fitting lora_a and lora_b")
        for side, matrix in (("lora_a", a), ("lora_b", b)):
            _refuse_not_finite(matrix, f"{tensor}.{side}", path)
        if tensor == EMBEDDING:
            a, b = transposed(b), a
        changes[tensor] = Delta(a, b, alpha / a.shape[0] if alpha else 1.0)
    return Adapter(path, changes)


def with_changes(tensor: Matrix, name: str, adapters: list[Adapter], shift: float) -> Matrix:
    """A tensor with every adapter's change; ``shift`` is what GGUF adds to its numbers.

    Raises BadInput for a change of another shape.
    """
    for adapter in adapters:
        change = adapter.changes.get(name)
        if change is None:
            continue
        if change.shape != tensor.shape:
            raise BadInput(
                f"{adapter.path}: tensor {name}: shape {change.shape}, the base has "
                f"{tensor.shape}; name an adapter of this base"
            )
        tensor = Matrix(tensor.shape, _changed(tensor.rows, change, shift))
    return tensor


def _changed(rows: Rows, change: Delta | Replacement, shift: float) -> Rows:
    if isinstance(change, Replacement):
        return lambda first, end: change.rows(first, end) + np.float32(shift)
    return lambda first, end: rows(first, end) + change.rows(first, end)
