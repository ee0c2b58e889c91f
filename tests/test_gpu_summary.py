"""What bench/gpu.sh's summary says of steps that ended well, were stopped, or never ran."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "bench" / "gpu_summary.py"


def test_a_stopped_step_counts_only_what_it_finished(tmp_path: Path) -> None:
    rows = ["doctor\t3\t0\t60", "main_job\t30\t124\t30", "engine\t0\tnot run\t0"]
    (tmp_path / "steps.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "doctor.out").write_text('{"device": "CUDA0"}')
    (tmp_path / "main_job.out").write_text('{"cells": [{"stage"')
    (tmp_path / "main_job.log").write_text("base chat: 4 rollouts\n")
    with closing(sqlite3.connect(tmp_path / "study.sqlite")) as study:
        study.execute("CREATE TABLE rollouts (tokens INTEGER)")
        study.executemany("INSERT INTO rollouts VALUES (?)", [(100,), (50,)])
        study.commit()
    done = subprocess.run([sys.executable, PROGRAM, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    doctor, job, engine = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert (doctor["result"], doctor["figures"]) == ("done", {"device": "CUDA0"})
    assert job["result"] == "stopped at its time limit"
    assert job["figures"] == {
        "rollouts": 2,
        "tokens": 150,
        "rollouts per minute of the whole command": 4.0,
    }
    assert (engine["result"], engine["status"], engine["figures"]) == ("not run", None, {})
    assert "base chat: 4 rollouts" in done.stdout
