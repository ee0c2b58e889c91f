"""A client of any server that speaks OpenAI's chat completions: llama-server, vLLM, SGLang, ...

Rollouts stay in the calling thread; their requests wait in an event loop in a thread of its own,
up to ``parallel`` at a time, and are cancelled as soon as the caller leaves. The server applies its
own chat template. Needs the extra ``server``.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import openai
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, ValidationError

from charprobe_lite.models import defaults
from charprobe_lite.models.chat_template import fold_system
from charprobe_lite.models.errors import BadInput, first_problem, printable
from charprobe_lite.models.files import well_formed
from charprobe_lite.runtime.backend import (
    Completion,
    Finish,
    Grammar,
    Job,
    Message,
    Request,
    turn_seed,
)
from charprobe_lite.runtime.server_replies import (
    CONTEXT_FULL,
    Failure,
    NotAReply,
    Reply,
    parse_json,
    parse_reply,
    reason_of,
)
from charprobe_lite.runtime.server_transport import LimitedTransport, RefusedReply

RETRIES = 4  # after pauses of about 0.5, 1, 2 and 4 s
PAUSE = 0.5  # seconds, doubled with every attempt
OVERFLOW_STATUS = (400, 413, 422, 500)
"""The status of servers that find a prompt too long."""
CHECK_RETRIES = 1
CONNECT_SECONDS = 10
PROBE = ({"role": "user", "content": "Say hello."},)  # no reply to it is JSON by chance
PROBE_TOKENS = 48
FIX_URL = "name the URL that /chat/completions is under, mostly .../v1"


@dataclass(frozen=True)
class _RequestForm:
    """How a server wants a JSON schema, and which fields it takes besides OpenAI's own."""

    schema_type: Literal["json_schema", "json_object"]
    extra_fields: dict[str, Any]

    def response_format(self, schema: Any) -> dict[str, Any]:
        if self.schema_type == "json_object":
            return {"type": "json_object", "schema": schema}
        reply = {"name": "reply", "schema": schema, "strict": True}
        return {"type": "json_schema", "json_schema": reply}


ALL_TOKENS = 1_000_000  # servers do not agree on a number for "no top_k"
# vLLM's order, which is the engine's; left to itself llama-server takes the temperature last
ORDER = ["penalties", "temperature", "min_p", "top_k", "top_p"]


class _ListedModel(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_ListedModel]


class _Refusal(BadInput):
    """The server refuses a request in this form."""


class Server:
    """Rollouts on a server at ``url``, at most ``parallel`` at once.

    The other arguments are those of ``BackendOptions``. The API key is taken from OPENAI_API_KEY.
    Raises BadInput for a URL or a key that cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        parallel: int = defaults.PARALLEL,
        temperature: float = defaults.TEMPERATURE,
        top_p: float = defaults.TOP_P,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        bos: str = "single",
        timeout: float = defaults.TIMEOUT,
    ) -> None:
        self.url = validate_url(url)
        self._parallel, self._timeout = parallel, timeout
        self._sampling = {"temperature": temperature, "top_p": top_p}
        fields = _sampling_fields(top_k, min_p, repetition_penalty)
        if bos == "double":  # vLLM's name; other servers tokenize chats in their own way
            fields["add_special_tokens"] = True
        self._forms = [_RequestForm("json_schema", fields)]  # llama-server, vLLM, SGLang
        self._forms += [_RequestForm("json_object", fields)]  # llama-cpp-python
        if (top_k, min_p, repetition_penalty, bos) == (0, 0, 1, "single"):
            # servers that refuse what OpenAI does not have
            self._forms += [_RequestForm("json_schema", {})]
        self._key = _api_key()
        self._retries, self._form = RETRIES, self._forms[0]
        self._model_names: list[str] | None = None
        self.takes_system = True
        self.model = ""

    def __enter__(self) -> Server:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._client = stack.enter_context(
                self._portal.wrap_async_context_manager(
                    openai.AsyncOpenAI(
                        base_url=self.url,
                        api_key=self._key or "none",  # the client insists on one
                        timeout=openai.Timeout(self._timeout, connect=CONNECT_SECONDS),
                        http_client=openai.DefaultAsyncHttpxClient(
                            transport=LimitedTransport(self._timeout)
                        ),
                    )
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def use_adapter(self, name: str) -> None:
        """Ask for this model from now on. Raises BadInput when the server does not serve it."""
        if self._model_names is None:
            self._model_names = self._portal.call(self._list_models)
        if name not in self._model_names:
            raise BadInput(
                f"--model {name}: {self.url} does not serve it; it serves: "
                + (", ".join(self._model_names[:20]) or "nothing")
            )
        self.model = name

    def check(self, requests: Iterable[Request]) -> None:
        """Find out how the server wants a JSON schema, and whether it accepts ``requests``.

        A server whose template refuses system prompts gets them in the first user turn. Raises
        BadInput when its replies do not fit the schemas.
        """
        requests = list(requests)
        grammars = list(dict.fromkeys(r.grammar for r in requests if r.grammar))
        if any(grammar.notation == "lark" for grammar in grammars):
            raise BadInput("--format fenced: servers take JSON schemas alone; add --grammar off")
        self._retries = CHECK_RETRIES
        try:
            self._portal.call(self._choose_form, grammars)
            for request in requests:
                self._portal.call(self._try, replace(request, max_tokens=1, grammar=None))
        finally:
            self._retries = RETRIES

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run rollouts, at most ``parallel`` at once; yields (job, its return value) as they end.

        Each turn's seed is derived from its rollout's. Leaving the loop early cancels the requests
        that are running. Raises BadInput when the server is gone or refuses a request.
        """
        queue = iter(jobs)
        running: dict[Future[Completion], tuple[Job, int]] = {}
        try:
            while True:
                while len(running) < self._parallel and (job := next(queue, None)) is not None:
                    yield from self._resume(running, job, 0, None)
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                # replies are handed out before a failure ends everything
                for future in sorted(done, key=lambda future: future.exception() is not None):
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
        seed = turn_seed(job.seed, turn) if request.seed is None else request.seed
        running[self._portal.start_task_soon(self._complete, request, seed)] = (job, turn + 1)

    async def _try(self, request: Request) -> None:
        """One request, if need be with its system prompt folded. Raises BadInput."""
        try:
            await self._complete(request, 0)
        except _Refusal:
            if not self.takes_system or request.messages[0]["role"] != "system":
                raise
            self.takes_system = False
            try:
                await self._complete(request, 0)
            except _Refusal:
                self.takes_system = True
            else:
                return
            raise

    async def _choose_form(self, grammars: Sequence[Grammar]) -> None:
        """Keep the first form of a request that the server answers correctly."""
        probes = [Request(PROBE, PROBE_TOKENS, grammar) for grammar in grammars]
        probes = probes or [Request(PROBE, 1)]
        problems = []
        for form in self._forms:
            self._form = form
            try:
                replies = [await self._complete(probe, 0) for probe in probes]
            except _Refusal as refusal:
                problems.append(str(refusal))
                continue
            if all(map(_fits, replies, grammars)):
                return
            is_empty = replies[0].finish == "empty"
            text = "without a text" if is_empty else repr(replies[0].text[:60])
            problems.append(f"{self.url}: it replied {text}")
        fix = (
            f"; model {self.model} cannot be asked for JSON that fits a tool's schema: "
            "use a server that honours response_format json_schema, or --condition chat"
        )
        raise BadInput(problems[0] + (fix if grammars else ""))

    async def _complete(self, request: Request, seed: int) -> Completion:
        """One turn. Raises BadInput when the server refuses it or is gone."""
        start = time.perf_counter()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {key: well_formed(text) for key, text in message.items()}
                for message in self._folded(request.messages)
            ],
            "max_tokens": request.max_tokens,
            "seed": seed,
            "extra_body": self._form.extra_fields,
            **self._sampling,
        }
        if request.grammar:
            schema = json.loads(request.grammar.source)
            body["response_format"] = self._form.response_format(schema)
        reply = await self._reply(body)
        seconds = time.perf_counter() - start
        if reply is None:
            return Completion("", "context", 0, 0, 0, seconds)
        finish: Finish = "length" if reply.finish == "length" else "stop"
        return Completion(
            text="" if reply.is_empty else reply.text or "",
            finish="empty" if reply.is_empty else finish,
            prompt_tokens=reply.prompt_tokens,
            evaluated_tokens=max(0, reply.prompt_tokens - (reply.cached_tokens or 0)),
            tokens=reply.tokens,
            seconds=seconds,
        )

    def _folded(self, messages: Sequence[Message]) -> Sequence[Message]:
        return messages if self.takes_system else fold_system(messages)

    async def _reply(self, body: dict[str, Any]) -> Reply | None:
        """The server's reply; None where the prompt does not fit. Raises BadInput.

        The client library repeats what fails by its status; this, errors in a reply of status 200.
        """
        pauses = [PAUSE * 2**attempt for attempt in range(self._retries)]
        while True:
            reply = await self._answer(body)
            if not isinstance(reply, Failure):
                return reply
            if not reply.transient or not pauses:
                raise BadInput(
                    f"{self.url}: {self._without_key(reply.reason)} (in a reply of status 200); "
                    "finished rollouts are kept: run the same command again"
                )
            await asyncio.sleep(pauses.pop(0))

    async def _answer(self, body: dict[str, Any]) -> Reply | Failure | None:
        """One answer, whatever it is; None where the prompt does not fit. Raises BadInput."""
        client = self._client.with_options(max_retries=self._retries)
        try:
            raw = await client.chat.completions.with_raw_response.create(**body)
            reply = parse_reply(raw.text)
        except openai.APIError as error:
            status = getattr(error, "status_code", None)
            if status in OVERFLOW_STATUS and CONTEXT_FULL.search(_reason(error)):
                return None
            raise self._problem(error) from None
        except NotAReply as error:
            raise self._not_a_reply(error) from None
        return None if isinstance(reply, Failure) and reply.is_context_full else reply

    async def _list_models(self) -> list[str]:
        client = self._client.with_options(max_retries=CHECK_RETRIES)
        try:
            raw = await client.models.with_raw_response.list()
        except openai.APIError as error:
            raise self._problem(error) from None
        try:
            models = _ModelList.model_validate(parse_json(raw.text)).data
        except NotAReply as error:
            raise self._not_a_reply(error) from None
        except ValidationError as error:
            raise self._not_a_reply(first_problem(error)) from None
        return [model.id for model in models]

    def _not_a_reply(self, problem: object) -> BadInput:
        return BadInput(
            f"{self.url}: not a reply of an OpenAI-compatible server: {problem}; {FIX_URL}"
        )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _problem(self, error: openai.APIError) -> BadInput:
        """An error of the client as one line, without the key."""
        if isinstance(error, openai.APITimeoutError):
            return BadInput(f"{self.url}: no answer in {self._timeout:g} s; raise --timeout")
        if isinstance(error.__cause__, RefusedReply):
            return BadInput(f"{self.url}: {printable(str(error.__cause__))}")
        if isinstance(error, openai.APIConnectionError):
            reason = first_problem(Exception(error.__cause__ or error))
            return BadInput(
                f"{self.url}: no server answers ({reason}); start it and run the same command "
                "again: finished rollouts are kept"
            )
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return BadInput(f"{self.url}: refuses the API key ({status}); set OPENAI_API_KEY")
        if status == 404:
            return BadInput(f"{self.url}: not found (404); {FIX_URL}")
        line = f"{self.url}: {self._without_key(_reason(error))} ({status})"
        # llama-cpp-python answers 500 to a response_format that it does not know
        return _Refusal(line) if status in (400, 422, 500, 501) else BadInput(line)


def _reason(error: openai.APIError) -> str:
    """What the server says of an error, in its own words where it has any."""
    response = getattr(error, "response", None)
    return (response is not None and reason_of(response.text)) or first_problem(error)


def _sampling_fields(top_k: int, min_p: float, repetition_penalty: float) -> dict[str, Any]:
    """All that decides how a token is drawn, besides OpenAI's own fields.

    Left to themselves, llama.cpp's servers cut at top_k 40 and min_p 0.05 and penalize the last
    64 tokens alone, llama-cpp-python penalizes repetition by 1.1, and vLLM and SGLang do what the
    model's generation_config.json says. The penalty has two names.
    """
    return {
        "top_k": top_k or ALL_TOKENS,
        "min_p": min_p,
        "repeat_penalty": repetition_penalty,
        "repetition_penalty": repetition_penalty,
        "repeat_last_n": -1,
        "samplers": ORDER,
    }


def validate_url(url: str) -> str:
    """The URL unchanged. Raises BadInput when it is no URL, or has a password or a query."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise BadInput(f"--base-url {url}: give http://HOST:PORT/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:  # it is recorded, and shown
        raise BadInput("--base-url: no passwords or queries; a key goes into OPENAI_API_KEY")
    return url


def _api_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):  # an HTTP library would show it in its error
        raise BadInput("OPENAI_API_KEY: has characters that no key has; set it again")
    return key


def _fits(reply: Completion, grammar: Grammar) -> bool:
    """Whether a reply, or its beginning, fits the grammar, in any spelling of JSON."""
    from llguidance import LLMatcher, LLTokenizer

    overrides = {"json_allow_general_unicode_escapes": True}
    source = LLMatcher.grammar_from_json_schema(grammar.source, overrides=overrides)
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, source, log_level=0)
    tokens = tokenizer.tokenize_bytes(reply.text.strip().encode("utf-8", "replace"))
    valid = bool(tokens) and matcher.try_consume_tokens(tokens) == len(tokens)
    return valid and (reply.finish == "length" or bool(matcher.is_accepting()))
