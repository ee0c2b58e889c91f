"""Cells and rows: what a study measures, and one finished rollout of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from charprobe_lite.models.quant_types import KV_DEFAULT
from charprobe_lite.runtime.backend import Finish


@dataclass(frozen=True)
class Cell:
    """Base x stage x condition x quant type, and how tool calls are asked for.

    ``quant`` is None where no model runs. ``format`` is "json" or "fenced", ``grammar`` "on" or
    "off"; both None where no tool is called. ``lora`` is "runtime" (an adapter on the quantized
    base) or "merged" (before quantizing); None without an adapter: in the base stage, and for a
    model that is the checkpoint itself. ``train_seed`` is the seed that the adapter was trained
    with, None where the study has one adapter per stage and persona. ``kv_type`` is the type of the
    K and V cache in llama.cpp; the default also where another program, or none, runs the model.
    ``technique`` names what trained the adapter, None where the study names no technique.
    """

    base: str
    stage: str
    condition: str
    quant: str | None
    format: str | None = None
    grammar: str | None = None
    lora: str | None = None
    train_seed: int | None = None
    kv_type: str = KV_DEFAULT
    technique: str | None = None

    def at(self, stage: str) -> Cell:
        """The same at another stage; the base stage has no adapter."""
        if stage == "base":
            return replace(self, stage=stage, lora=None, train_seed=None, technique=None)
        return replace(self, stage=stage)

    @property
    def pooled(self) -> Cell:
        """The cell over all training seeds."""
        return self if self.train_seed is None else replace(self, train_seed=None)

    @property
    def label(self) -> str:
        """The condition with what differs from JSON calls under a grammar, an adapter at run time
        and an F16 cache, and the technique, for people."""
        fenced = ["fenced"] if self.format == "fenced" else []
        free = ["no grammar"] if self.grammar == "off" else []
        merged = ["merged"] if self.lora == "merged" else []
        cache = [f"{self.kv_type} cache"] if self.kv_type != KV_DEFAULT else []
        technique = [self.technique] if self.technique else []
        return ", ".join([self.condition, *fenced, *free, *merged, *cache, *technique])


class RolloutKey(NamedTuple):
    """Identifies a rollout within its study; all personas share those of the base stage (None)."""

    cell: Cell
    persona: str | None
    item: str
    sample: int


@dataclass(frozen=True)
class Row:
    """One finished rollout; text and prediction are None without sample.

    ``persona`` is None in the base stage, whose rollouts all personas share.

    ``seconds`` is wall time, shared with whatever else ran; ``ended`` the time in UTC, ISO 8601.
    """

    cell: Cell
    persona: str | None
    item: str
    sample: int
    seed: int
    outcome: str
    forced: bool
    text: str | None
    prediction: str | None
    probabilities: dict[str, float] | None
    steps: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0
    ended: str = ""

    @property
    def key(self) -> RolloutKey:
        """Identifies the rollout, as a `Task` of the grid does."""
        return RolloutKey(self.cell, self.persona, self.item, self.sample)


@dataclass(frozen=True)
class RecordedTurn:
    """One reply of the model as it was recorded, the tool call in it, what the tool gave back."""

    text: str
    finish: Finish
    tool: str | None
    arguments: dict[str, Any] | None
    output: str | None
    tokens: int = 0
