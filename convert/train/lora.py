"""LoRA training of a causal model on conversations (SFT) or preferences (DPO): CPU, CUDA or MPS.

LoRA: Hu et al. 2021, arXiv 2106.09685. DPO: Rafailov et al. 2023, arXiv 2305.18290. Only layers
from ``first_layer`` on carry an adapter; the ones below run without gradients.
"""

import ctypes
import math
import os
import platform
import random
import sys
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from charprobe_lite.convert.architectures import architecture_of_gguf
from charprobe_lite.convert.gguf_adapter import write_adapter
from charprobe_lite.convert.train.gguf_weights import load_gguf_model
from charprobe_lite.convert.train.losses import Example, dpo_loss, reference_logprobs, sft_loss

Progress = Callable[[int, int, float], None]
Tensors = dict[str, torch.Tensor]
Precision = Literal["float32", "bfloat16"]
T = TypeVar("T")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARM_UP = 5
"""Steps in which the rate rises to its value."""
LARGE = 500_000_000
"""Parameters from which activations are computed again instead of kept (gradient checkpointing)."""


@dataclass(frozen=True)
class LoraSettings:
    """What is trained and how: rank, alpha, first layer with an adapter, optimiser, batches.

    A step is one batch of at most ``batch_tokens`` padded tokens. With ``decay`` the rate falls
    along a cosine to a tenth at the last step, else it stays: then training for fewer steps is
    the beginning of training for more.
    """

    rank: int
    alpha: int
    first_layer: int
    learning_rate: float
    steps: int
    batch_tokens: int
    decay: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Snapshot:
    """An adapter after ``step`` steps: its tensors with PEFT's names, and the loss of each step."""

    step: int
    tensors: Tensors
    losses: list[float]


def first_adapted_layer(base: Path) -> int:
    """The first of the upper two thirds of a GGUF file's layers."""
    return architecture_of_gguf(base).layers // 3


def load_base(path: Path, precision: Precision | None = None) -> Any:
    """A causal model as transformers has it, frozen, on the best device.

    Without a ``precision`` it is float32 on a CPU and bfloat16 elsewhere. A CPU that multiplies
    bfloat16 (AVX512_BF16, AMX) trains 1.4 to 1.9 times as fast with it; others take 2.7 times as
    long (measured). The adapter is float32 always.

    ``path`` is a GGUF file or a checkpoint folder (safetensors only). Raises OSError and
    ValueError as transformers does.
    """
    _keep_freed_memory()
    device = best_device()
    dtype = getattr(torch, precision or ("float32" if device == "cpu" else "bfloat16"))
    if path.is_dir():
        place: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype, **place)
    else:
        model = load_gguf_model(path, dtype)
    model.requires_grad_(False)
    if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()  # transformers recomputes only then; these models have no dropout
    else:
        model.eval()
    return model.to(device)


def best_device() -> str:
    """ "cuda", "mps" or "cpu": the first that torch has."""
    if torch.cuda.is_available():
        # cuBLAS chooses the same algorithm each time only with a workspace of a fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def training_platform() -> str:
    """What decides the bytes of a trained file: torch, device, processor and threads."""
    device = best_device()
    threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
    chip = torch.cuda.get_device_name() if device == "cuda" else threads
    return f"torch {torch.__version__}, {device}, {chip}"


def train_sft(
    model: Any,
    examples: Sequence[Example],
    settings: LoraSettings,
    start: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Tensors, list[float]]:
    """Train a LoRA on ``examples``; returns its tensors (peft names) and the loss per step.

    ``start`` is a safetensors adapter to continue from. The model is left without an adapter.
    """
    *_, last = sft_snapshots(model, examples, settings, settings.steps, start, progress)
    return last.tensors, last.losses


def sft_snapshots(
    model: Any,
    examples: Sequence[Example],
    settings: LoraSettings,
    every: int,
    start: Path | None = None,
    progress: Progress | None = None,
) -> Generator[Snapshot, None, None]:
    """The same, with the adapter after each ``every`` steps and after the last."""
    sizes = [len(example.ids) for example in examples]

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        return sft_loss(model, [examples[i] for i in batch])

    batches = _endless_batches(sizes, settings)
    kept = range(every, settings.steps, every)
    yield from fit_adapter(model, batches, loss_of, settings, kept, start, progress)


def train_dpo(
    model: Any,
    pairs: Sequence[tuple[Example, Example]],
    settings: LoraSettings,
    beta: float = 0.1,
    nll_weight: float = 0.1,
    start: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Tensors, list[float]]:
    """As train_sft, on (chosen, rejected) pairs; the reference is the model without adapter.

    The loss is DPO's plus ``nll_weight`` times the chosen text's mean negative log-likelihood.
    """
    reference = reference_logprobs(model, pairs)

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        chosen, references = [pairs[i] for i in batch], [reference[i] for i in batch]
        return dpo_loss(model, chosen, references, beta, nll_weight)

    batches = _endless_batches(pair_sizes(pairs), settings)
    *_, last = fit_adapter(model, batches, loss_of, settings, (), start, progress)
    return last.tensors, last.losses


def pair_sizes(pairs: Sequence[tuple[Example, Example]]) -> list[int]:
    """The padded tokens of each pair."""
    return [2 * max(len(chosen.ids), len(rejected.ids)) for chosen, rejected in pairs]


def write_gguf(tensors: Tensors, settings: LoraSettings, base: Path, target: Path) -> None:
    """Write an adapter as a GGUF LoRA of ``base``, a GGUF file."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    write_adapter(arrays, settings.alpha, base, target)


def save_peft(
    tensors: Tensors, settings: LoraSettings, model: Any, base: Path, folder: Path
) -> Path:
    """Write an adapter as PEFT does, its config and its tensors; returns the path of these."""
    config = _lora_config(settings, model)
    config.base_model_name_or_path = base.name
    config.inference_mode = True
    config.save_pretrained(str(folder))
    path = folder / "adapter_model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def epoch_steps(sizes: Sequence[int], batch_tokens: int, epochs: float) -> int:
    """The number of steps in which every item, of these token counts, is seen ``epochs`` times."""
    return max(1, round(epochs * len(_batches(sizes, batch_tokens, random.Random(0)))))


def fit_adapter(
    model: Any,
    batches: Iterable[T],
    loss_of: Callable[[T], torch.Tensor],
    settings: LoraSettings,
    kept: Container[int] = (),
    start: Path | None = None,
    progress: Progress | None = None,
) -> Generator[Snapshot, None, None]:
    """AdamW on the loss of one batch after the other; the adapter after the steps ``kept``, and
    after the last. The model is left without an adapter."""
    peft_model = _with_adapter(model, settings, start)
    parameters = [p for p in peft_model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    try:
        for step, batch in enumerate(batches, start=1):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _rate_scale(step - 1, settings)
            loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(loss.item())
            if progress:
                progress(step, settings.steps, losses[-1])
            if step in kept or step == settings.steps:
                yield Snapshot(step, _tensors(peft_model), list(losses))
            if step == settings.steps:
                return
    finally:
        peft_model.unload()


def _with_adapter(model: Any, settings: LoraSettings, start: Path | None) -> Any:
    """The model with a LoRA: a new one, or that of the file ``start``."""
    torch.manual_seed(settings.seed)
    peft_model = get_peft_model(model, _lora_config(settings, model))
    if start is not None:
        set_peft_model_state_dict(peft_model, load_file(start))
    return peft_model


def _lora_config(settings: LoraSettings, model: Any) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=TARGETS,
        layers_to_transform=list(range(settings.first_layer, model.config.num_hidden_layers)),
    )


def _tensors(peft_model: Any) -> Tensors:
    """The adapter's tensors on the CPU, float32."""
    # no embedding is trained, and looking for its configuration would ask the model hub
    state = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    return {name: tensor.detach().float().cpu().clone() for name, tensor in state.items()}


def _endless_batches(sizes: Sequence[int], settings: LoraSettings) -> Iterator[list[int]]:
    """The batches of one epoch after the other, each in an order of its own."""
    epoch = 0
    while True:
        rng = random.Random(f"{settings.seed}/{epoch}")
        yield from _batches(sizes, settings.batch_tokens, rng)
        epoch += 1


def _batches(sizes: Sequence[int], batch_tokens: int, rng: random.Random) -> list[list[int]]:
    """Batches of at most ``batch_tokens`` padded tokens, alike in length, in random order."""
    order = list(range(len(sizes)))
    rng.shuffle(order)
    order.sort(key=lambda i: sizes[i] // 24)
    batches: list[list[int]] = [[]]
    for index in order:
        longest = max(sizes[i] for i in [*batches[-1], index])
        if batches[-1] and longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    rng.shuffle(batches)
    return batches


def _rate_scale(step: int, settings: LoraSettings) -> float:
    """The factor of the rate in a step, from 0: linear warm-up, then level or a cosine."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.55 + 0.45 * math.cos(math.pi * step / settings.steps) if settings.decay else 1.0


def _keep_freed_memory() -> None:
    """Keep glibc from handing every freed activation back to the kernel."""
    # without this, a third of the training time goes into page faults (measured on 2 cores)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and sys.platform == "linux":
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
