"""The tests. Each of several test processes gets a core: threads would wait for each other."""

import os

# before anything loads OpenMP, which reads the number once
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if _WORKER and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_WORKER.removeprefix("gw")) % len(_cores)]})
    os.environ["OMP_NUM_THREADS"] = "1"
