"""`charprobe-lite study`: grids of a study file, planned, run in parts, resumed, merged."""

from __future__ import annotations

import click

from charprobe_lite.eval.cli.study.merge import merge
from charprobe_lite.eval.cli.study.plan import plan
from charprobe_lite.eval.cli.study.run import resume, run
from charprobe_lite.eval.cli.study.status import status


@click.group()
def study() -> None:
    """Run grids that a study file (YAML) describes; plan, resume, share and merge them.

    \b
    base: smollm2-135m            # or several: [NAME, NAME]
    stage: [base, full]
    persona: all
    condition: [chat, agentic_email]
    quant: [F16, Q8_0, Q4_0]
    lora: [runtime, merged]
    limit: {prompts: 40, scenarios: 25}
    seed: 0                       # or several: [0, 1, 2]
    repeats: 1
    texts: 4                      # makes it a quantization study, as quant-study runs them
    """


for command in (merge, plan, resume, run, status):
    study.add_command(command)
