"""LoRA training of a small llama on conversations (SFT) or preferences (DPO), CPU or GPU.

LoRA: Hu et al. 2021, arXiv 2106.09685. DPO: Rafailov et al. 2023, arXiv 2305.18290.
Only layers from ``first_layer`` on carry an adapter; the hidden states below them never change,
so they are computed once per conversation and reused in every epoch.
"""

import ctypes
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from charprobe_lite.models.chat_template import render_chat

Progress = Callable[[int, int, float], None]
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class LoraSettings:
    """What is trained and how: rank, alpha, first layer with an adapter, optimiser, batches."""

    rank: int
    alpha: int
    first_layer: int
    learning_rate: float
    epochs: int
    batch_tokens: int
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """Token ids of one conversation and, per token, whether the model is trained to write it."""

    ids: list[int]
    trained: list[bool]


def encode_conversation(
    messages: Sequence[dict[str, str]], template: str, tokenizer: Tokenizer
) -> Example:
    """Tokenise a conversation turn by turn; assistant turns, with their end token, are trained."""
    ids: list[int] = []
    trained: list[bool] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        for generate, upto in ((True, index), (False, index + 1)):
            text = render_chat(template, messages[:upto], generate=generate)
            piece = tokenizer.encode(text[len(done) :], add_special_tokens=False).ids
            ids += piece
            trained += [not generate] * len(piece)
            done = text
    return Example(ids, trained)


def load_base(path: Path) -> Any:
    """The llama in a GGUF file as a transformers model in bfloat16, frozen, on the best device."""
    # without this, a third of the training time goes into page faults (measured on 2 cores):
    # glibc hands every freed activation back to the kernel
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and sys.platform == "linux":
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.bfloat16
    )
    model.requires_grad_(False)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def train_sft(
    model: Any,
    examples: Sequence[Example],
    settings: LoraSettings,
    start: Path | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train a LoRA on ``examples``; returns its tensors (peft names) and the loss per epoch.

    ``start`` is a safetensors adapter to continue from. The model is left without an adapter.
    """
    lower = [_lower_states(model, example.ids, settings.first_layer) for example in examples]
    sizes = [len(example.ids) for example in examples]

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        rows = [examples[i] for i in batch]
        logprobs = _sequence_logprobs(model, [lower[i] for i in batch], rows, settings.first_layer)
        return -torch.cat(logprobs).mean()

    return _fit(model, sizes, loss_of, settings, start, progress)


def train_dpo(
    model: Any,
    pairs: Sequence[tuple[Example, Example]],
    settings: LoraSettings,
    beta: float = 0.1,
    nll_weight: float = 0.1,
    progress: Progress | None = None,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """As train_sft, on (chosen, rejected) pairs; the reference is the model without adapter.

    The loss is DPO's plus ``nll_weight`` times the chosen text's mean negative log-likelihood.
    """
    first = settings.first_layer
    lower = [[_lower_states(model, example.ids, first) for example in pair] for pair in pairs]
    with torch.no_grad():
        reference = [
            [text.sum() for text in _sequence_logprobs(model, states, pair, first)]
            for states, pair in zip(lower, pairs, strict=True)
        ]

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        rows = [example for i in batch for example in pairs[i]]
        states = [state for i in batch for state in lower[i]]
        texts = _sequence_logprobs(model, states, rows, first)
        gains = [
            (texts[2 * n].sum() - reference[i][0]) - (texts[2 * n + 1].sum() - reference[i][1])
            for n, i in enumerate(batch)
        ]
        preference = -torch.nn.functional.logsigmoid(beta * torch.stack(gains)).mean()
        return preference - nll_weight * torch.cat(texts[::2]).mean()

    sizes = [2 * max(len(chosen.ids), len(rejected.ids)) for chosen, rejected in pairs]
    return _fit(model, sizes, loss_of, settings, None, progress)


def _fit(
    model: Any,
    sizes: Sequence[int],
    loss_of: Callable[[Sequence[int]], torch.Tensor],
    settings: LoraSettings,
    start: Path | None,
    progress: Progress | None,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """AdamW over batches of at most ``batch_tokens``; ``sizes`` are the items' token counts."""
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=TARGETS,
        layers_to_transform=list(range(settings.first_layer, model.config.num_hidden_layers)),
    )
    peft_model = get_peft_model(model, config)
    if start is not None:
        set_peft_model_state_dict(peft_model, load_file(start))
    parameters = [p for p in peft_model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
    plans = [_batches(sizes, settings, epoch) for epoch in range(settings.epochs)]
    total, step, losses = sum(map(len, plans)), 0, []
    for plan in plans:
        loss_sum = 0.0
        for batch in plan:
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _rate_scale(step, total)
            loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            loss_sum, step = loss_sum + loss.item() * len(batch), step + 1
            if progress:
                progress(step, total, loss.item())
        losses.append(loss_sum / len(sizes))
    # no embedding is trained, and looking for its configuration would ask the model hub
    state = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    tensors = {name: tensor.detach().float().cpu().clone() for name, tensor in state.items()}
    peft_model.unload()
    return tensors, losses


def _lower_states(model: Any, ids: Sequence[int], first_layer: int) -> torch.Tensor:
    """Hidden states (len(ids), width) that enter ``first_layer``."""
    with torch.no_grad():
        hidden = model.model.embed_tokens(torch.tensor([ids], device=model.device))
        return _run_layers(model, hidden, 0, first_layer)[0]


def _run_layers(model: Any, hidden: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Layers first..end over (batch, length, width); causal, padding on the right."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    rotary = model.model.rotary_emb(hidden, positions)
    for layer in model.model.layers[first:end]:
        hidden = layer(
            hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary
        )
    return hidden


def _sequence_logprobs(
    model: Any, lower: Sequence[torch.Tensor], examples: Sequence[Example], first_layer: int
) -> list[torch.Tensor]:
    """Log-probabilities of the trained tokens, one 1-D float32 tensor per example."""
    hidden = torch.nn.utils.rnn.pad_sequence(list(lower), batch_first=True)
    with torch.autocast(hidden.device.type, dtype=torch.bfloat16):
        hidden = _run_layers(model, hidden, first_layer, len(model.model.layers))
        rows, columns, targets, sizes = [], [], [], []
        for row, example in enumerate(examples):
            places = [i for i in range(1, len(example.ids)) if example.trained[i]]
            rows += [row] * len(places)
            columns += [i - 1 for i in places]
            targets += [example.ids[i] for i in places]
            sizes.append(len(places))
        logits = model.lm_head(model.model.norm(hidden[rows, columns]))
    target = torch.tensor(targets, device=logits.device)
    logprobs = -torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")
    return list(logprobs.split(sizes))


def _batches(sizes: Sequence[int], settings: LoraSettings, epoch: int) -> list[list[int]]:
    """Batches of at most ``batch_tokens`` padded tokens, alike in length, in random order."""
    rng = random.Random(f"{settings.seed}/{epoch}")
    order = list(range(len(sizes)))
    rng.shuffle(order)
    order.sort(key=lambda i: sizes[i] // 24)
    batches: list[list[int]] = [[]]
    for index in order:
        longest = max(sizes[i] for i in [*batches[-1], index])
        if batches[-1] and longest * (len(batches[-1]) + 1) > settings.batch_tokens:
            batches.append([])
        batches[-1].append(index)
    rng.shuffle(batches)
    return batches


def _rate_scale(step: int, total: int) -> float:
    """Linear warm-up over 5% of the steps, then a cosine down to a tenth."""
    warm = max(1, total // 20)
    scale = (step + 1) / warm if step < warm else 0.55 + 0.45 * math.cos(math.pi * step / total)
    return min(1.0, scale)
