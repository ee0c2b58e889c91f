"""What a rollout asks for and gets back, whatever runs the model.

A rollout is a Python generator that yields `Request`s and is sent `Completion`s. It knows nothing
of batching, templates or servers: a `Backend` (the llama.cpp engine, or a client of a server) runs
many of them at once.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, Protocol, TypeVar

from charprobe_lite.models import defaults
from charprobe_lite.models.errors import require_known
from charprobe_lite.models.quant_types import KV_DEFAULT

BACKENDS = {
    "llama.cpp": "charprobe_lite.runtime.engine:Engine",
    "openai": "charprobe_lite.runtime.server:Server",
}
"""The class of every backend, by the name that ``--backend`` has for it."""
Message = dict[str, str]  # role, content
Finish = Literal["stop", "length", "context", "empty", "template"]


@dataclass(frozen=True)
class Grammar:
    """A JSON schema that the reply's one JSON value must fit, or a grammar in llguidance's lark
    notation that the entire reply must fit."""

    source: str
    notation: Literal["json_schema", "lark"] = "json_schema"


@dataclass(frozen=True)
class Request:
    """What a rollout asks for: the assistant's next turn, at most ``max_tokens`` long.

    With a ``seed`` the turn is drawn with it; without one the rollout's own randomness goes on.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    grammar: Grammar | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """The reply to a request.

    ``finish`` is "stop" (the turn ended by itself), "length" (``max_tokens`` reached), "context"
    (prompt or reply do not fit the context) or "empty" (a server sent no text: it was filtered, or
    there is nothing but reasoning or a tool call in a field of its own) or "template" (the chat
    template failed on the conversation). ``evaluated_tokens`` is
    the part of the prompt that was not already in the KV cache; ``appended_tokens`` that of the
    reply's ``tokens`` that the grammar left no choice about, so that nothing was sampled.
    ``seconds`` is wall time, shared with whatever else ran.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    evaluated_tokens: int
    tokens: int
    seconds: float
    appended_tokens: int = 0


Rollout = Generator[Request, Completion, Any]


@dataclass(frozen=True)
class Job:
    """A rollout to run: an opaque key that comes back with the result, a seed, the generator."""

    key: Any
    seed: int
    rollout: Rollout


Adapter = TypeVar("Adapter", contravariant=True)


class Backend(AbstractContextManager["Backend[Any]"], Protocol[Adapter]):
    """Runs rollouts on one base model; a context manager.

    An adapter is a file for the engine, and for a server the name of a model that it serves.
    ``takes_system``, after ``check``, says whether the chat template writes system prompts;
    otherwise they go before the text of the first user turn.
    """

    @property
    def takes_system(self) -> bool:
        return True

    def use_adapter(self, adapter: Adapter, /) -> None:
        """Run with this adapter from now on. Raises BadInput."""

    def check(self, requests: Iterable[Request]) -> None:
        """Raise BadInput for requests that could not be run, before any rollout begins."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run rollouts; yields (job, its return value) as they end."""


@dataclass(frozen=True)
class BackendOptions:
    """How a backend runs rollouts; its class has keyword arguments for the options it takes.

    ``parallel`` rollouts at once of ``context`` tokens each, prompt and replies together, on
    ``threads`` cores (None: all physical ones) with ``gpu_layers`` layers on the GPU (-1: all)
    and a K and V cache of ``kv_type``, on a CPU with ``flash_attention`` or without,
    drawn as `sampling.Sampling` says; ``bos`` "double" lets the tokenizer add its own token of
    the beginning to a prompt whose template has written one; ``timeout`` is the longest wait for
    a server's reply, in seconds.
    """

    parallel: int = defaults.PARALLEL
    context: int = defaults.CONTEXT
    threads: int | None = None
    gpu_layers: int = 0
    kv_type: str = KV_DEFAULT
    flash_attention: bool = False
    temperature: float = defaults.TEMPERATURE
    top_p: float = defaults.TOP_P
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    bos: str = "single"
    timeout: float = defaults.TIMEOUT


def turn_seed(rollout_seed: int, turn: int) -> int:
    """A 31-bit seed, which every server accepts, from a rollout's seed and its turn's number."""
    name = f"{rollout_seed}/{turn}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1


def open_backend(
    name: str, model: Path | str, options: BackendOptions | None = None
) -> Backend[Any]:
    """The backend of this name, to be used as a context manager.

    ``model`` is a GGUF file for the engine, and the URL of a server. Raises BadInput for an
    unknown name, and like the backend's own constructor.
    """
    require_known("--backend", name, BACKENDS)
    backend_class = resolve_name(BACKENDS[name])
    values = asdict(options or BackendOptions())
    names = signature(backend_class).parameters.keys() & values.keys()
    backend: Backend[Any] = backend_class(model, **{name: values[name] for name in names})
    return backend
