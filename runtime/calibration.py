"""How a model runs fastest on a machine: how many rollouts at once, and with flash attention or
without. Both are timed once, and cached."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.models.atomic import FOREVER, new_file
from charprobe_lite.models.cache import cache_folder
from charprobe_lite.models.corpus import id_prompts
from charprobe_lite.models.defaults import PARALLEL
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import stored_parts
from charprobe_lite.runtime.backend import BackendOptions

if TYPE_CHECKING:
    from charprobe_lite.runtime.llama import Context, Model

STEPS = (1, 4, 8, 16, 32)
"""The numbers of sequences that are timed."""
TOLERANCE = 0.05
"""A gain below this is none: timing ends after two."""
NEAR = 0.10
"""A number within this of the best is as good: more sequences take memory, make each rollout
slower, and leave a smaller batch while the last ones of an adapter end."""
PREFERENCE = 0.15
"""The usual number stays unless another is faster by more: its timings vary less than that, and
texts of a batch depend on its size in their last bits."""
DEPTH = 512  # tokens in each sequence while decodes are timed; an agent's rollout is as deep
PROBE, SHALLOWEST = 32, 128  # tokens
PROMPT_SECONDS = 2.0
FEWEST, MOST, ENOUGH_SECONDS = 3, 24, 0.4  # decodes of each number of sequences
FLASH_GAIN = 0.05
"""Flash attention is taken on a CPU where it saves more of the time: a text depends on it."""
FLASH_DEPTH, FLASH_SEQUENCES, FLASH_DECODES, FLASH_ROUNDS = 768, 8, 16, 3
ROOM = 1 + (1 + MOST) * len(STEPS)  # tokens that all decodes append to the first sequence

SPEEDS, SECONDS, ATTENTION = "tokens_per_second", "seconds", "attention-"
Speeds = Mapping[int, float]
"""Tokens per second of all sequences together, by the number of sequences."""


def flash_is_faster(model: Path, options: BackendOptions) -> bool:
    """Whether the model is faster on the CPU with flash attention, from the cache or timed now.

    It is where a prompt and some decodes take under 95% of the time; not without the memory
    to time it.
    """
    seconds = _cached_attention(model, options)
    if seconds is None:
        try:
            seconds = _time_attention(model, options)
        except BadInput:
            return False
        _keep(_cache_file(model, options, ATTENTION), {SECONDS: seconds})
    return _saves_time(seconds)


def flash_was_faster(model: Path, options: BackendOptions) -> bool:
    """The same as far as it has been timed; False where it has not."""
    seconds = _cached_attention(model, options)
    return seconds is not None and _saves_time(seconds)


def _saves_time(seconds: Mapping[str, float]) -> bool:
    return seconds["on"] < (1 - FLASH_GAIN) * seconds["off"]


def best_number(speeds: Speeds, most: int) -> int:
    """The usual number if its speed is within `PREFERENCE` of the best's up to ``most``, else the
    smallest that is within `NEAR`."""
    timed = {number: speed for number, speed in speeds.items() if number <= most}
    best = max(timed.values())
    if timed.get(PARALLEL, 0) >= (1 - PREFERENCE) * best:
        return PARALLEL
    return min(number for number, speed in timed.items() if speed >= (1 - NEAR) * best)


def next_step(speeds: Speeds, most: int) -> int | None:
    """The number of sequences to time next; None where more would not be faster.

    That is so after two steps without a gain: one may be another program's doing.
    """
    gains, best = [True], 0.0
    for number in sorted(speeds):
        gains.append(speeds[number] > (1 + TOLERANCE) * best)
        best = max(best, speeds[number])
    steps = [step for step in STEPS if step <= most and step not in speeds]
    return steps[0] if steps and any(gains[-2:]) else None


def calibrate(model: Path, options: BackendOptions, most: int) -> dict[int, float]:
    """Speeds with up to ``most`` sequences, from the cache or timed now and cached.

    ``options`` are those that the model is to run with; ``parallel`` does not matter. Raises
    BadInput when llama.cpp cannot run the model.
    """
    if cached := cached_speeds(model, options, most):
        return cached
    speeds = _time_decodes(model, options, most)
    _keep(_cache_file(model, options), {SPEEDS: speeds})
    return speeds


def cached_speeds(model: Path, options: BackendOptions, most: int) -> dict[int, float] | None:
    """What ``calibrate`` has in the cache; None where it would have to time more, or where the
    file is damaged."""
    try:
        record = json.loads(_cache_file(model, options).read_text("utf-8"))
        speeds = {int(number): float(speed) for number, speed in record[SPEEDS].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    is_sound = 1 in speeds and all(n in STEPS and 0 < s < 1e9 for n, s in speeds.items())
    return speeds if is_sound and next_step(speeds, most) is None else None


def _cached_attention(model: Path, options: BackendOptions) -> dict[str, float] | None:
    try:
        record = json.loads(_cache_file(model, options, ATTENTION).read_text("utf-8"))
        seconds = {name: float(record[SECONDS][name]) for name in ("off", "on")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return seconds if all(0 < value < 1e9 for value in seconds.values()) else None


def _keep(file: Path, record: Mapping[str, Any]) -> None:
    try:
        with new_file(file, FOREVER) as part:
            part.write_text(json.dumps(record), "utf-8")
    except BadInput:
        pass  # without a cache it is timed again


def _cache_file(model: Path, options: BackendOptions, kind: str = "") -> Path:
    """Its name is a key of everything that the timings depend on."""
    from charprobe_lite.runtime.llama import devices, physical_cores

    files = [part.stat() for part in stored_parts(model)]
    facts = {
        "files": [(file.st_size, file.st_mtime_ns, file.st_ino) for file in files],
        "processor": _processor(),
        "cores": _cores(),
        "threads": options.threads or physical_cores(),
        "gpu_layers": options.gpu_layers,
        "devices": [str(device) for device in devices() if device.is_gpu],
        "context": options.context,
        "kv_type": options.kv_type,
        **({} if kind else {"flash_attention": options.flash_attention}),
        "llama-cpp-python": version("llama-cpp-python"),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "parallel" / f"{kind}{key}.json"


def _processor() -> str:
    """The name of the CPU; where the system does not say, of its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use, with hyper-threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _time_attention(path: Path, options: BackendOptions) -> dict[str, float]:
    """Seconds for a prompt and `FLASH_DECODES` decodes, with flash attention off and on.

    Both take turns, and the shortest times count: other programs only make it slower.
    """
    from charprobe_lite.runtime.llama import Context, Model

    model = Model(path, 0)
    try:
        with ExitStack() as stack:
            contexts = {}
            for name in ("off", "on"):
                contexts[name] = Context(
                    model,
                    length=FLASH_DEPTH + ROOM,
                    sequences=FLASH_SEQUENCES,
                    threads=options.threads,
                    flash_attention=name == "on",
                )
                stack.callback(contexts[name].close)
            text = _text(model, FLASH_DEPTH)
            depth = min(_affordable(each, text, options.context) for each in contexts.values())
            rounds = [
                {name: _prompt_and_decode(each, text[:depth]) for name, each in contexts.items()}
                for _ in range(FLASH_ROUNDS)
            ]
    finally:
        model.close()
    return {
        name: min(each[name][0] for each in rounds)
        + FLASH_DECODES * min(each[name][1] for each in rounds)
        for name in ("off", "on")
    }


def _prompt_and_decode(context: Context, text: Sequence[int]) -> tuple[float, float]:
    """Seconds to read a prompt, and to decode a token in each sequence behind it."""
    context.clear()
    seconds = _read(context, text, 0, len(text))
    for sequence in range(1, FLASH_SEQUENCES):
        context.copy(0, sequence)
    ends = [len(text)] * FLASH_SEQUENCES
    return seconds, min(_decode(context, text[0], ends, FLASH_SEQUENCES) for _ in range(FEWEST))


def _time_decodes(path: Path, options: BackendOptions, most: int) -> dict[int, float]:
    from charprobe_lite.runtime.llama import Model

    model = Model(path, options.gpu_layers)
    try:
        context, most = _largest_context(model, options, most)
        try:
            return _speeds(context, _text(model), options.context, most)
        finally:
            context.close()
    finally:
        model.close()


def _largest_context(model: Model, options: BackendOptions, most: int) -> tuple[Context, int]:
    """A context of as many sequences as there is room for, and their number."""
    from charprobe_lite.runtime.llama import Context

    for number in reversed([step for step in STEPS if step <= most]):
        try:
            context = Context(
                model,
                length=DEPTH + ROOM,
                sequences=number,
                threads=options.threads,
                kv_type=options.kv_type,
                flash_attention=options.flash_attention,
            )
        except BadInput:
            if number == 1:
                raise
            continue
        return context, number
    raise ValueError("at least one sequence is timed")


def _text(model: Model, length: int = DEPTH) -> list[int]:
    """So many tokens of prompts."""
    tokens = model.tokenize("\n".join(id_prompts()))
    return (tokens * length)[:length]


def _speeds(context: Context, text: Sequence[int], length: int, most: int) -> dict[int, float]:
    """Speeds of decodes that begin at one depth: that of the first sequence, copied to the rest."""
    depth = _affordable(context, text, length)
    _read(context, text, 2 * PROBE, depth)
    for sequence in range(1, most):
        context.copy(0, sequence)
    ends, speeds = [depth] * most, dict[int, float]()
    while number := next_step(speeds, most):
        _decode(context, text[0], ends, number)  # the first of a size prepares buffers
        seconds: list[float] = []
        while len(seconds) < FEWEST or (sum(seconds) < ENOUGH_SECONDS and len(seconds) < MOST):
            seconds.append(_decode(context, text[0], ends, number))
        speeds[number] = number / min(seconds)  # other programs only make it slower
    return speeds


def _affordable(context: Context, text: Sequence[int], length: int) -> int:
    """How many tokens of a text to read: fewer where a rollout of ``length`` is shorter, or the
    model slow. Reads the first of them."""
    _read(context, text, 0, PROBE)  # prepares buffers
    rate = PROBE / _read(context, text, PROBE, 2 * PROBE)
    affordable = max(SHALLOWEST, round(rate * PROMPT_SECONDS))
    return max(SHALLOWEST, min(len(text), length - ROOM, affordable))


def _read(context: Context, text: Sequence[int], first: int, last: int) -> float:
    """Seconds to read a part of a text into the first sequence."""
    from charprobe_lite.runtime.llama import Segment

    start = time.perf_counter()
    context.decode([Segment(0, first, text[first:last], [False] * (last - first))])
    return time.perf_counter() - start


def _decode(context: Context, token: int, ends: list[int], number: int) -> float:
    """Seconds to decode a token in each of the first ``number`` sequences."""
    from charprobe_lite.runtime.llama import Segment

    segments = [Segment(each, ends[each], [token], [True]) for each in range(number)]
    start = time.perf_counter()
    context.decode(segments)
    seconds = time.perf_counter() - start
    ends[:number] = [end + 1 for end in ends[:number]]
    return seconds
