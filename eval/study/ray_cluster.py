"""A study on a Ray cluster: its parts are tasks, their rollouts stream into one study here.

A part runs as `run_rollouts` runs it with a shard, into a file of its own on its node; snapshots of
that file come back while it runs. A part whose node is lost starts again with what has arrived, so
that nothing is run twice but what was under way.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.merge import add_part
from charprobe_lite.eval.store.provenance import is_pinned
from charprobe_lite.eval.study.run import SILENT, run_rollouts, study_path
from charprobe_lite.eval.study.spec import StudySpec, parse_spec, resolve
from charprobe_lite.eval.study.status import study_status
from charprobe_lite.models.catalogue import EMBEDDED
from charprobe_lite.models.errors import BadInput

PARTS_PER_SLOT = 2
"""Parts for each task that can run at once: so that a fast node takes more of them."""
MOST_LOSSES = 5
"""How often a part may lose its node before the command gives up."""
EVERY = 2.0
"""Seconds between two snapshots of a part."""


def run_on_ray(
    spec: StudySpec, address: str, cpus: int | None, note: Callable[[str], None]
) -> None:
    """Run what is missing of a study on a Ray cluster, with ``cpus`` cores a part.

    ``address`` is that of a cluster; "auto" is the running one, or else this machine alone. Every
    node needs this package and the files that the spec names. ``cpus`` None is as many as the
    smallest node has. A part takes a GPU where every node has one and the spec allows it. Raises
    BadInput, also for a part that lost its node ``MOST_LOSSES`` times.
    """
    ray = _connected(address)
    try:
        needs, parts = _resources(ray, spec, cpus)
        path = study_path(spec, resolve(spec).base or EMBEDDED)
        note(f"{parts} parts on {len(ray.nodes())} nodes, {needs['num_cpus']} cores each")
        remote = ray.remote(max_retries=0, num_returns="streaming", **needs)(_stream_part)
        threads = spec.threads or needs["num_cpus"]
        driver = _Driver(ray, remote, spec.with_values(study=path), parts, threads, note)
        with Store(path) as store:
            driver.run(store)
    finally:
        ray.shutdown()


@dataclass
class _Driver:
    """Submits ``parts`` parts of ``threads`` threads, takes their snapshots into the study, and
    submits again what was lost."""

    ray: Any
    remote: Any
    spec: StudySpec
    parts: int
    threads: int
    note: Callable[[str], None]

    def run(self, store: Store) -> None:
        errors, losses = self.ray.exceptions, Counter[int]()
        total, done = _total(self.spec), len(store.rows())
        running = {self._submit(store, part): part for part in range(1, self.parts + 1)}
        while running:
            [stream], _ = self.ray.wait([*running], num_returns=1)
            part = running[stream]
            try:
                snapshot = self.ray.get(next(stream))
            except StopIteration:
                del running[stream]
            except errors.RayTaskError as error:
                raise error.cause if isinstance(error.cause, BadInput) else error from None
            except errors.RayError as error:
                losses[part] += 1
                self._report_loss(part, losses[part], error)
                del running[stream]
                running[self._submit(store, part)] = part
            else:
                if added := self._take_in(store, snapshot):
                    done += added
                    self.note(f"{done} of {total} rollouts")

    def _submit(self, store: Store, part: int) -> Any:
        """A stream of the part's snapshots; it begins with what has arrived."""
        shard = {"shard": (part, self.parts), "threads": self.threads}
        return self.remote.remote({**self.spec.recorded(), **shard}, store.content())

    def _take_in(self, store: Store, snapshot: bytes) -> int:
        """How many rollouts of the snapshot are new."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.sqlite"
            path.write_bytes(snapshot)
            with Store(path, readonly=True) as part:
                noted = part.provenance()
                store.pin({name: value for name, value in noted.items() if is_pinned(name)})
                store.note({name: value for name, value in noted.items() if not is_pinned(name)})
                return add_part(store, part, keep_first=True)

    def _report_loss(self, part: int, losses: int, error: Exception) -> None:
        reason = type(error).__name__
        if losses == MOST_LOSSES:
            raise BadInput(
                f"--ray: part {part} of {self.parts} lost its node {losses} times ({reason}); "
                "what ended is kept: look at the nodes' memory, then run the same command again"
            )
        self.note(f"part {part} of {self.parts} lost its node ({reason}); it starts again")


def _total(spec: StudySpec) -> int:
    return sum(cell.total for cell in study_status(spec).cells)


def _stream_part(values: dict[str, Any], start: bytes) -> Iterator[bytes]:
    """On a node: run the part, and give its file every few seconds and at its end."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        path = Path(folder) / "part.sqlite"
        path.write_bytes(start)
        spec = parse_spec({**values, "study": path})
        done, before = pool.submit(run_rollouts, spec, SILENT), b""
        while not done.done():
            time.sleep(EVERY)
            if (content := _content(path)) != before:
                before = content
                yield content
        done.result()
        yield _content(path)


def _content(path: Path) -> bytes:
    """A study's file as it stands, also while it is written."""
    with Store(path, readonly=True) as store:
        return store.content()


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise BadInput("--ray: ray is not installed; pip install 'charprobe-lite[ray]'") from None
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if address != "auto":
        _refuse_silent(address)  # ray itself would wait for minutes
        ray.init(address=address, **options)
        return ray
    try:
        ray.init(address=address, **options)
    except ConnectionError:  # no cluster is running
        ray.init(**options)
    return ray


def _refuse_silent(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise BadInput(f"--ray {address}: no cluster answers ({error}); give HOST:PORT") from None


def _resources(ray: Any, spec: StudySpec, cpus: int | None) -> tuple[dict[str, Any], int]:
    """What each part needs of a node, and the number of parts."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU")]
    if not cores:
        raise BadInput("--ray: no node of the cluster has a CPU to give")
    share = cpus or min(cores)
    if share > max(cores):
        raise BadInput(f"--ray-cpus {share}: the largest node has {max(cores)}")
    gpus = all(node.get("GPU") for node in nodes if node.get("CPU")) and spec.device != "cpu"
    slots = sum(each // share for each in cores)
    needs = {"num_cpus": share, **({"num_gpus": 1} if gpus else {})}
    return needs, max(1, PARTS_PER_SLOT * slots)
