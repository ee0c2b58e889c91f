"""What the engine is compared with: other ways to run the same rollouts on the same model.

Each peer is a backend (runtime/backend.py): it takes the same rollouts, with the same sampling
(temperature 0.7, top_p 0.95, nothing else) and the same seeds.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from charprobe_lite.runtime.backend import BackendOptions, Completion, Job, Request
from charprobe_lite.runtime.calibration import flash_is_faster
from charprobe_lite.runtime.engine import Engine

SAMPLING = {"temperature": 0.7, "top_p": 0.95, "top_k": 0, "min_p": 0.0}
CONTEXT = 2560
Reply = Callable[[Request, int], Completion]
Run = Callable[[list[Job]], Iterator[tuple[Job, Any]]]


def completion(text: str, finish: str, tokens: int) -> Completion:
    return Completion(text, finish, 0, 0, tokens, 0.0)


def one_by_one(reply: Reply, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
    """Every rollout alone, from its first turn to its last."""
    for job in jobs:
        yield job, _drive(reply, job)


def in_threads(reply: Reply, jobs: Iterable[Job], threads: int) -> Iterator[tuple[Job, Any]]:
    """As many rollouts at once as a server has slots."""
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[tuple[Job, Any]]] = {
            pool.submit(lambda job=job: (job, _drive(reply, job))) for job in jobs
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _drive(reply: Reply, job: Job) -> Any:
    try:
        request = next(job.rollout)
        while True:
            request = job.rollout.send(reply(request, job.seed % 2**31))
    except StopIteration as stop:
        return stop.value


def llama_cpp_python(model: Path, layers: int = 0) -> Reply:
    """`llama_cpp.Llama.create_chat_completion(grammar=...)`, as its users write it."""
    import llama_cpp
    from llama_cpp.llama_grammar import LlamaGrammar
    from llama_cpp_peer import spare_amx

    spare_amx()
    llama = llama_cpp.Llama(
        str(model),
        n_ctx=CONTEXT,
        n_threads=cores(),
        n_gpu_layers=layers,
        flash_attn=flash_attention(model, layers),
        verbose=False,
    )

    def reply(request: Request, seed: int) -> Completion:
        grammar = None
        if request.grammar:
            grammar = LlamaGrammar.from_json_schema(request.grammar.source, verbose=False)
        answer: Any = llama.create_chat_completion(
            messages=list(request.messages),  # type: ignore[arg-type]
            max_tokens=request.max_tokens,
            seed=seed,
            grammar=grammar,
            **SAMPLING,
        )
        choice = answer["choices"][0]
        tokens = answer["usage"]["completion_tokens"]
        return completion(choice["message"]["content"], choice["finish_reason"], tokens)

    return reply


@contextmanager
def llama_server(program: Path, model: Path, slots: int, layers: int = 0) -> Iterator[Run]:
    """llama.cpp's own server with ``slots`` parallel sequences, asked over loopback.

    Started anew each time: it keeps every prompt that it has seen, beyond its slots.
    """
    command = [str(program), "-m", str(model), "-np", str(slots), "-c", str(slots * CONTEXT)]
    command += ["-t", str(cores()), "-ngl", str(layers if layers >= 0 else 999)]
    command += ["--no-webui", "--jinja"]
    if not layers:
        command += ["--flash-attn", "on" if flash_attention(model) else "off"]
    with running(command, slots) as run:
        yield run


@contextmanager
def vllm_server(program: Path, checkpoint: Path, slots: int) -> Iterator[Run]:
    """vLLM's server for a checkpoint folder, with at most ``slots`` sequences at once."""
    command = [str(program), "serve", str(checkpoint), "--max-num-seqs", str(slots)]
    command += ["--max-model-len", str(CONTEXT), "--gpu-memory-utilization", "0.5"]
    with running(command, slots, str(checkpoint)) as run:
        yield run


@contextmanager
def running(command: list[str], slots: int, model: str = "") -> Iterator[Run]:
    """A server on a free port of the loopback device, until the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*command, "--port", str(port)], stdout=quiet, stderr=quiet) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(url, server)
            yield lambda jobs: in_threads(partial(_ask, url, model), jobs, slots)
        finally:
            server.terminate()


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(720):
        if server.poll() is not None:
            raise RuntimeError(f"{server.args[0]} did not start")  # type: ignore[index]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(f"{server.args[0]} does not answer")  # type: ignore[index]


def _ask(url: str, model: str, request: Request, seed: int) -> Completion:
    body: dict[str, Any] = {
        **({"model": model} if model else {}),
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "seed": seed,
        **SAMPLING,
    }
    if request.grammar:
        schema = json.loads(request.grammar.source)
        reply = {"name": "reply", "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": reply}
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    question = urllib.request.Request(f"{url}/v1/chat/completions", data, headers)
    with urllib.request.urlopen(question, timeout=3600) as answer:
        document = json.load(answer)
    choice = document["choices"][0]
    tokens = document["usage"]["completion_tokens"]
    return completion(choice["message"]["content"], choice["finish_reason"], tokens)


def write_checkpoint(model: Path, folder: Path) -> None:
    """A GGUF model as a checkpoint folder in float16, chat template and all, for vLLM."""
    import torch
    import transformers

    files = {"gguf_file": model.name, "local_files_only": True}
    causal = transformers.AutoModelForCausalLM
    causal.from_pretrained(model.parent, dtype=torch.float16, **files).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(model.parent, **files).save_pretrained(folder)


class Transformers:
    """`transformers.generate`, ``width`` turns in a batch, without a grammar.

    In bfloat16 on a GPU and on CPUs with AMX, else in float32, which is faster there.
    """

    def __init__(self, model: Path, width: int, device: str = "cpu") -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        os.environ["TQDM_DISABLE"] = "1"
        torch.set_num_threads(cores())
        self.torch, self.width, self.device = torch, width, device
        is_fast = device != "cpu" or "amx_bf16" in Path("/proc/cpuinfo").read_text()
        files = {"gguf_file": model.name, "local_files_only": True}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model.parent, **files)
        self.tokenizer.padding_side = "left"
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            model.parent, dtype=torch.bfloat16 if is_fast else torch.float32, **files
        )
        self.model = self.model.eval().to(device)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Turns of ``width`` rollouts at a time; a rollout that ended makes room for the next."""
        queue, running = iter(jobs), list[tuple[Job, Request]]()
        while True:
            fresh = islice(queue, self.width - len(running))
            running += [(job, next(job.rollout)) for job in fresh]
            if not running:
                return
            continued = []
            replies = self._reply([request for _, request in running])
            for (job, _), reply in zip(running, replies, strict=True):
                try:
                    continued.append((job, job.rollout.send(reply)))
                except StopIteration as stop:
                    yield job, stop.value
            running = continued

    def _reply(self, requests: Sequence[Request]) -> list[Completion]:
        texts = [
            self.tokenizer.apply_chat_template(
                list(request.messages), tokenize=False, add_generation_prompt=True
            )
            for request in requests
        ]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        batch = batch.to(self.device)
        with self.torch.inference_mode():
            rows = self.model.generate(
                **batch,
                do_sample=True,
                temperature=0.7,
                top_p=0.95,
                top_k=0,
                max_new_tokens=max(request.max_tokens for request in requests),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        end = self.tokenizer.eos_token_id
        replies = []
        for row in rows[:, batch["input_ids"].shape[1] :].tolist():
            kept = row[: row.index(end)] if end in row else row
            text = self.tokenizer.decode(kept, skip_special_tokens=True)
            replies.append(completion(text, "stop" if end in row else "length", len(kept)))
        return replies


def fast_engine(model: Path, parallel: int, layers: int = 0, **options: Any) -> Engine:
    """The engine with the attention that this machine is faster with."""
    flash = flash_attention(model, layers)
    return Engine(model, parallel=parallel, gpu_layers=layers, flash_attention=flash, **options)


@cache
def flash_attention(model: Path, layers: int = 0) -> bool:
    """Whether this CPU is faster with it: the engine and its peers then all have it."""
    return not layers and flash_is_faster(model, BackendOptions())


def cores() -> int:
    from charprobe_lite.runtime.llama import physical_cores

    return physical_cores()
