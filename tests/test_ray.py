"""A study on a real Ray cluster of two nodes, one of which dies in the middle."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RUN, Command

pytest.importorskip("ray")
GRID = """
persona: [sarcasm, humor]
stage: [base, full]
condition: [chat]
limit: {prompts: 8, scenarios: 1}
parallel: 1
max_tokens: 24
"""


def rows(study: Path) -> list[tuple[Any, ...]]:
    if not study.is_file():
        return []
    with sqlite3.connect(f"file:{study}?mode=ro", uri=True, timeout=30) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'samples'").fetchall():
            return []
        return database.execute(
            "SELECT stage, condition, persona, item, sample, seed, outcome, text, prediction "
            "FROM rollouts JOIN cells ON cells.id = cell_id "
            "LEFT JOIN samples ON rollout_id = rollouts.id ORDER BY 1, 2, 3, 4, 5"
        ).fetchall()


def test_a_node_that_dies_costs_no_rollout_and_the_study_is_that_of_one_machine(
    charprobe: Command, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    (tmp_path / "grid.yaml").write_text(GRID)
    alone = charprobe("study", "run", "grid.yaml", "--study", "alone.sqlite")
    assert alone.returncode == 0, alone.stderr
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        doomed, _ = (cluster.add_node(num_cpus=1) for _ in range(2))
        study = tmp_path / "together.sqlite"
        command = [*RUN, "study", "run", "grid.yaml", "--study", str(study)]
        with (tmp_path / "log.txt").open("w") as log:
            driver = subprocess.Popen(
                [*command, "--ray", cluster.address], cwd=tmp_path, stdout=log, stderr=log
            )
            deadline = time.monotonic() + 240
            while not rows(study) and driver.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            cluster.remove_node(doomed, allow_graceful=False)
            status = driver.wait(timeout=400)
        said = (tmp_path / "log.txt").read_text()
        assert status == 0, said
        assert "4 parts on 3 nodes, 1 cores each" in said
        assert "lost its node" in said
    finally:
        cluster.shutdown()
    assert len(rows(study)) == 24  # 8 prompts: of the base, and of two personas
    assert rows(study) == rows(tmp_path / "alone.sqlite")


def test_without_a_cluster_at_the_address_it_is_one_line(
    charprobe: Command, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    done = charprobe("study", "run", "grid.yaml", "--ray", "127.0.0.1:1")
    assert done.returncode == 2
    assert "charprobe-lite: --ray 127.0.0.1:1: no cluster answers" in done.stderr
    assert "Traceback" not in done.stderr
