"""A client of any server that speaks OpenAI's chat completions: llama-server, vLLM, SGLang, ...

Rollouts stay in the calling thread; their requests wait in an event loop in a thread of its own,
up to ``parallel`` at a time, and are taken back as soon as the caller leaves. The server applies
its own chat template. Needs the extra ``server``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import openai
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, Field, ValidationError

from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.runtime.backend import (
    BackendOptions,
    Completion,
    Grammar,
    Job,
    Request,
)

RETRIES = 4  # after pauses of about 0.5, 1, 2 and 4 s
RETRIES_OF_CHECK = 1
CONNECT_SECONDS = 10
PROBE = ({"role": "user", "content": "Say hello."},)  # no reply to it is JSON by chance
PROBE_TOKENS = 48
CONTEXT_FULL = re.compile(
    r"context.?(length|size|window)|maximum model length|longer than the model", re.IGNORECASE
)
ParsedReply = TypeVar("ParsedReply", bound=BaseModel)


@dataclass(frozen=True)
class _Form:
    """How a server wants a JSON schema, and what it takes beside OpenAI's own fields."""

    response_format: Callable[[Any], dict[str, Any]]
    extra: dict[str, Any]


def _json_schema(schema: Any) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": schema, "strict": True},
    }


def _json_object(schema: Any) -> dict[str, Any]:
    return {"type": "json_object", "schema": schema}


# the engine samples by temperature and top_p alone; left to themselves, llama.cpp's servers cut at
# top_k 40 and min_p 0.05, llama-cpp-python penalizes repetition by 1.1, and vLLM and SGLang do what
# the model's generation_config.json says (which calls the penalty by the other name)
NOTHING_ELSE = {
    "top_k": 1_000_000,  # servers do not agree on a number for "off"
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "repetition_penalty": 1.0,
}
FORMS = (
    _Form(_json_schema, NOTHING_ELSE),  # llama-server, vLLM, SGLang
    _Form(_json_object, NOTHING_ELSE),  # llama-cpp-python
    _Form(_json_schema, {}),  # servers that refuse what OpenAI does not have
)

Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Cached(BaseModel):
    cached_tokens: Count | None = None


class _Usage(BaseModel):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: _Cached | None = None


class _Reply(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


class _Served(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Served]


class _Refused(BadInput):
    """The server does not take the request as it was put."""


class Server:
    """Rollouts on a server at ``url``, at most ``parallel`` at once.

    ``timeout`` is the longest wait for one reply, in seconds. The API key is taken from
    OPENAI_API_KEY. Raises BadInput for a URL or a key that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        parallel: int = 8,
        temperature: float = 0.7,
        top_p: float = 0.95,
        timeout: float = 600,
    ) -> None:
        self.url = checked_url(url)
        self._parallel, self._timeout = parallel, timeout
        self._sampling = {"temperature": temperature, "top_p": top_p}
        self._key = _api_key()
        self._retries, self._form = RETRIES, FORMS[0]
        self._served: list[str] | None = None
        self.model = ""

    @classmethod
    def open(cls, url: str, options: BackendOptions) -> Server:
        """The client as ``open_backend`` opens it."""
        return cls(
            url,
            parallel=options.parallel,
            temperature=options.temperature,
            top_p=options.top_p,
            timeout=options.timeout,
        )

    def __enter__(self) -> Server:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._client = stack.enter_context(
                self._portal.wrap_async_context_manager(
                    openai.AsyncOpenAI(
                        base_url=self.url,
                        api_key=self._key or "none",  # the client insists on one
                        timeout=openai.Timeout(self._timeout, connect=CONNECT_SECONDS),
                    )
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def use_adapter(self, name: str) -> None:
        """Ask for this model from now on. Raises BadInput when the server does not serve it."""
        if self._served is None:
            self._served = self._portal.call(self._models)
        if name not in self._served:
            raise BadInput(
                f"--model {name}: {self.url} does not serve it; it serves: "
                + (", ".join(self._served[:20]) or "nothing")
            )
        self.model = name

    def check(self, requests: Iterable[Request]) -> None:
        """Find out how the server wants a JSON schema, and whether it takes ``requests``.

        Raises BadInput when its replies do not fit the schemas.
        """
        found = list(requests)
        if any(each.grammar and each.grammar.lark for each in found):
            raise BadInput("--format fenced: servers take JSON schemas alone; add --grammar off")
        self._retries = RETRIES_OF_CHECK
        try:
            grammars = list(dict.fromkeys(each.grammar for each in found if each.grammar))
            self._portal.call(self._agree, grammars)
            for request in found:
                self._portal.call(self._complete, replace(request, max_tokens=1, grammar=None), 0)
        finally:
            self._retries = RETRIES

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run rollouts, at most ``parallel`` at once; yields (job, its return value) as they end.

        Each turn's seed is made from its rollout's. Leaving the loop early takes back the
        requests that are under way. Raises BadInput when the server is gone or refuses a request.
        """
        waiting = iter(jobs)
        running: dict[Future[Completion], tuple[Job, int]] = {}
        try:
            while True:
                while len(running) < self._parallel and (job := next(waiting, None)) is not None:
                    yield from self._resume(running, job, 0, None)
                if not running:
                    return
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                # what ended well is handed out before a failure ends everything
                for future in sorted(ended, key=lambda future: future.exception() is not None):
                    completion = future.result()
                    job, turn = running.pop(future)
                    yield from self._resume(running, job, turn, completion)
        finally:
            for future, (job, _) in running.items():
                future.cancel()
                job.rollout.close()

    def _resume(
        self,
        running: dict[Future[Completion], tuple[Job, int]],
        job: Job,
        turn: int,
        completion: Completion | None,
    ) -> Iterator[tuple[Job, Any]]:
        """Hand the completion to the rollout and send its next request, or yield its result."""
        try:
            request = next(job.rollout) if completion is None else job.rollout.send(completion)
        except StopIteration as stop:
            yield job, stop.value
            return
        seed = turn_seed(job.seed, turn)
        running[self._portal.start_task_soon(self._complete, request, seed)] = (job, turn + 1)

    async def _agree(self, grammars: Sequence[Grammar]) -> None:
        """Keep the first form of a request that the server answers as it should."""
        probes = [Request(PROBE, PROBE_TOKENS, grammar) for grammar in grammars]
        problems = []
        for self._form in FORMS:
            try:
                replies = [await self._complete(each, 0) for each in probes or [Request(PROBE, 1)]]
            except _Refused as refused:
                problems.append(str(refused))
                continue
            if all(map(_fits, replies, grammars)):
                return
            problems.append(f"{self.url}: it replied {replies[0].text[:60]!r}")
        raise BadInput(
            f"{problems[0]}; model {self.model} cannot be asked for JSON that fits a tool's "
            "schema: use a server that honours response_format json_schema, or --condition chat"
            if grammars
            else problems[0]
        )

    async def _complete(self, request: Request, seed: int) -> Completion:
        """One turn. Raises BadInput when the server refuses it or is gone."""
        started = time.perf_counter()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            "seed": seed,
            "extra_body": self._form.extra,
            **self._sampling,
        }
        if request.grammar:
            schema = json.loads(request.grammar.schema)
            body["response_format"] = self._form.response_format(schema)
        client = self._client.with_options(max_retries=self._retries)
        try:
            raw = await client.chat.completions.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            if error.status_code in (400, 413, 422, 500) and CONTEXT_FULL.search(str(error)):
                return Completion("", "context", 0, 0, 0, time.perf_counter() - started)
            raise self._problem(error) from None
        except openai.APIError as error:
            raise self._problem(error) from None
        return _completion(self._parsed(_Reply, raw.text), time.perf_counter() - started)

    async def _models(self) -> list[str]:
        """The names of the models that the server serves."""
        client = self._client.with_options(max_retries=RETRIES_OF_CHECK)
        try:
            raw = await client.models.with_raw_response.list()
        except openai.APIError as error:
            raise self._problem(error) from None
        return [each.id for each in self._parsed(_ModelList, raw.text).data]

    def _parsed(self, kind: type[ParsedReply], text: str) -> ParsedReply:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise BadInput(
                f"{self.url}: not a reply of an OpenAI-compatible server: {first_problem(error)}; "
                "name the URL that /chat/completions stands under, mostly .../v1"
            ) from None

    def _problem(self, error: openai.APIError) -> BadInput:
        """An error of the client as one line, without the key."""
        if isinstance(error, openai.APITimeoutError):
            return BadInput(f"{self.url}: no answer in {self._timeout:g} s; raise --timeout")
        if isinstance(error, openai.APIConnectionError):
            reason = first_problem(Exception(error.__cause__ or error))
            return BadInput(
                f"{self.url}: no server answers ({reason}); start it and run the same command "
                "again: what ended is kept"
            )
        status = error.status_code if isinstance(error, openai.APIStatusError) else 0
        if status in (401, 403):
            return BadInput(f"{self.url}: refuses the API key ({status}); set OPENAI_API_KEY")
        if status == 404:
            return BadInput(
                f"{self.url}: not found (404); name the URL that /chat/completions stands under, "
                "mostly .../v1"
            )
        said = first_problem(error)
        line = f"{self.url}: {said.replace(self._key, '***') if self._key else said}"
        # llama-cpp-python answers 500 to a response_format that it does not know
        return _Refused(line) if status in (400, 422, 500, 501) else BadInput(line)


def checked_url(url: str) -> str:
    """The URL as it is. Raises BadInput when it is none, or carries a password or a query."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise BadInput(f"--base-url {url}: give http://HOST:PORT/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:  # it is recorded, and shown
        raise BadInput("--base-url: no passwords or queries; a key goes into OPENAI_API_KEY")
    return url


def _api_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):  # an HTTP library would show it in its error
        raise BadInput("OPENAI_API_KEY: holds characters that no key has; set it again")
    return key


def turn_seed(rollout_seed: int, turn: int) -> int:
    """A 31-bit seed, which every server takes, from a rollout's seed and the number of its turn."""
    name = f"{rollout_seed}/{turn}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1


def _completion(reply: _Reply, seconds: float) -> Completion:
    choice, usage = reply.choices[0], reply.usage or _Usage()
    details = usage.prompt_tokens_details
    cached = (details and details.cached_tokens) or 0
    return Completion(
        text=choice.message.content or "",
        finish="length" if choice.finish_reason == "length" else "stop",
        prompt_tokens=usage.prompt_tokens,
        evaluated_tokens=max(0, usage.prompt_tokens - cached),
        tokens=usage.completion_tokens,
        seconds=seconds,
    )


def _fits(reply: Completion, grammar: Grammar) -> bool:
    """Whether a reply, or what there is of it, fits the grammar, in any spelling of JSON."""
    from llguidance import LLMatcher, LLTokenizer

    overrides = {"json_allow_general_unicode_escapes": True}
    source = LLMatcher.grammar_from_json_schema(grammar.schema, overrides=overrides)
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, source, log_level=0)
    tokens = tokenizer.tokenize_bytes(reply.text.strip().encode("utf-8", "replace"))
    begun = bool(tokens) and matcher.try_consume_tokens(tokens) == len(tokens)
    return begun and (reply.finish == "length" or bool(matcher.is_accepting()))
