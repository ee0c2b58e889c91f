"""What a causal model is trained to lower: the mean negative log-likelihood, and DPO's loss.

DPO: Rafailov et al. 2023, arXiv 2305.18290.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

BETA, NLL_WEIGHT = 0.1, 0.1
"""How far DPO may go from the base, and the weight of the chosen text's likelihood next to it."""
MOST_LOGITS, PART_LOGITS = 2**26, 2**24
"""Logits of a batch from which they are computed in parts, and those of a part: many sizes of large
blocks would leave memory in fragments."""


@dataclass(frozen=True)
class Example:
    """Token ids of one conversation and, per token, whether the model is trained to write it."""

    ids: list[int]
    trained: list[bool]


def sft_loss(model: Any, examples: Sequence[Example]) -> torch.Tensor:
    """The mean negative log-likelihood of the trained tokens of ``examples``."""
    return -torch.cat(sequence_logprobs(model, examples)).mean()


def reference_logprobs(
    model: Any, pairs: Sequence[tuple[Example, Example]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The log-likelihood of each pair's texts, chosen and rejected, without gradients."""
    with torch.no_grad():
        texts = [sequence_logprobs(model, pair) for pair in pairs]
    return [(chosen.sum(), rejected.sum()) for chosen, rejected in texts]


def dpo_loss(
    model: Any,
    pairs: Sequence[tuple[Example, Example]],
    references: Sequence[tuple[torch.Tensor, torch.Tensor]],
    beta: float = BETA,
    nll_weight: float = NLL_WEIGHT,
) -> torch.Tensor:
    """DPO's loss of (chosen, rejected) pairs, plus ``nll_weight`` times the chosen texts' mean
    negative log-likelihood; ``references`` are `reference_logprobs` of the same pairs."""
    texts = sequence_logprobs(model, [example for pair in pairs for example in pair])
    gains = [
        (texts[2 * n].sum() - chosen) - (texts[2 * n + 1].sum() - rejected)
        for n, (chosen, rejected) in enumerate(references)
    ]
    preference = -torch.nn.functional.logsigmoid(beta * torch.stack(gains)).mean()
    return preference - nll_weight * torch.cat(texts[::2]).mean()


def sequence_logprobs(model: Any, examples: Sequence[Example]) -> list[torch.Tensor]:
    """Log-probabilities of the trained tokens, one 1-D float32 tensor per example."""
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(example.ids) for example in examples], batch_first=True
    ).to(model.device)
    rows, columns, targets, counts = [], [], [], []
    for row, example in enumerate(examples):
        places = [i for i in range(1, len(example.ids)) if example.trained[i]]
        rows += [row] * len(places)
        columns += [i - 1 for i in places]
        targets += [example.ids[i] for i in places]
        counts.append(len(places))
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type != "cpu"):
        # padding is on the right, where causal attention never looks: no mask is needed
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        target = torch.tensor(targets, device=hidden.device)
        # only where a token is trained: a large vocabulary's logits are most of the memory
        logprobs = _target_logprobs(model.lm_head, hidden[rows, columns], target)
    return list(logprobs.split(counts))


def _target_logprobs(
    head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities (tokens,) of ``targets`` after ``hidden`` (tokens, width), float32.

    More than `MOST_LOGITS` logits are computed in parts, and again for the gradient.
    """
    if len(hidden) * head.out_features <= MOST_LOGITS:
        return _part_logprobs(head, hidden, targets)
    size = max(1, PART_LOGITS // head.out_features)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.cat(
        [checkpoint(_part_logprobs, head, *part, use_reentrant=False) for part in parts]
    )


def _part_logprobs(
    head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    logits = head(hidden).float()
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def mean_losses(losses: Sequence[float], parts: int = 8) -> list[float]:
    """Means of the losses of ``parts`` equal parts of the steps, to four places."""
    size = max(1, -(-len(losses) // parts))
    return [round(fmean(losses[i : i + size]), 4) for i in range(0, len(losses), size)]
