"""Hostile inputs of one kind, chosen by the code that they reach: libFuzzer by atheris.

    pip install 'charprobe-lite[fuzz]'
    python -m bench.fuzz_coverage tool-schema -runs=100000
    python -m bench.fuzz_coverage tool-schema -max_total_time=600

Changes inputs as `bench/fuzz.py` does, and keeps those that reach new code. Ends at the first that
fails, and leaves it in the current folder, as libFuzzer does; its options follow the kind.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["charprobe_lite"]):
    from bench.fuzz import attack
    from bench.fuzzing.kinds import KINDS


def main() -> None:
    """Run libFuzzer on the kind that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        sys.exit(f"name a kind: {', '.join(KINDS)}")
    kind = KINDS[sys.argv[1]]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds = list(kind.seeds(folder / "good"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed.read_bytes())

    def one_input(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as room:
            path = Path(room) / seeds[0].name
            path.write_bytes(data)
            outcome, said = attack(kind, path, folder / "good")
        if outcome not in ("taken", "refused"):
            raise RuntimeError(f"{outcome}: {said}")

    def changed(data: bytes, max_size: int, seed: int) -> bytes:
        return kind.mutate(data, random.Random(seed))[:max_size]

    largest = 4 * max(seed.stat().st_size for seed in seeds)
    options = [sys.argv[0], f"-max_len={largest}", *sys.argv[2:], str(corpus)]
    atheris.Setup(options, one_input, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
