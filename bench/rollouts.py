"""The rollouts that the engine's benchmarks run: agents with tools, and chat answers."""

from __future__ import annotations

import click

from charprobe_lite.eval.conditions import agentic_email, chat
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.study.grid import by_family, rollout_seed
from charprobe_lite.models.prompts import load_prompts
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Job

MAX_TOKENS, MAX_STEPS = 384, 8


def agentic_jobs(
    count: int, seed: int, max_tokens: int = MAX_TOKENS, steps: int = MAX_STEPS
) -> list[Job]:
    settings = RolloutSettings(max_tokens, steps, load_tools(), format="json", grammar="on")
    return [
        Job(
            scenario.id,
            rollout_seed(seed, "bench", item=scenario.id, sample=0),
            agentic_email.rollout(scenario, settings),
        )
        for scenario in by_family(load_scenarios())[:count]
    ]


def chat_jobs(count: int, seed: int) -> list[Job]:
    return [
        Job(
            prompt.id,
            rollout_seed(seed, "bench", item=prompt.id, sample=0),
            chat.rollout(prompt, RolloutSettings(MAX_TOKENS)),
        )
        for prompt in load_prompts()[:count]
    ]


def note(text: str) -> None:
    click.echo(text, err=True)
