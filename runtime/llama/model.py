"""A GGUF model in llama.cpp with its LoRA adapters, and the contexts that compute with it."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.chat_template import fold_system, takes_system
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import regular_file
from charprobe_lite.models.gguf_header import MORE_END_TOKENS
from charprobe_lite.models.quant_types import KV_DEFAULT
from charprobe_lite.models.size_estimates import MICROBATCH
from charprobe_lite.runtime.backend import Message
from charprobe_lite.runtime.llama import log
from charprobe_lite.runtime.llama.binding import llama
from charprobe_lite.runtime.llama.ggml import has_amx
from charprobe_lite.runtime.native_trial import try_model
from charprobe_lite.runtime.template_worker import TemplateWorker

BYTE_LEVEL = 2  # llama_vocab_type: BPE over bytes
BATCH = 1024  # most tokens of one decode: long prompts are cut, decoding goes on meanwhile
FileVersion = tuple[Path, int, int]
"""A path with the time of modification and the size of the file that it names."""


class Model:
    """The weights, loaded once; ``gpu_layers`` of them on the GPU (-1 = all, 0 = none).

    ``repack`` lets llama.cpp keep a second, faster copy of quantized weights, except in a build
    with AMX (`has_amx`); a model that is ``vocabulary_only`` has no weights, and renders and
    tokenises alone. The file, and later each adapter, is tried in a child process first
    (`native_trial`) unless it is ``tried``. Raises BadInput when the file is no GGUF model that
    llama.cpp can load.
    """

    def __init__(
        self,
        path: Path,
        gpu_layers: int = 0,
        *,
        repack: bool = True,
        tried: bool = False,
        vocabulary_only: bool = False,
    ) -> None:
        self.path, self._tried = path, tried
        self.on_gpu = gpu_layers != 0
        _check_magic(path)
        if not tried:
            try_model(path)
        log.capture()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = repack and not has_amx()
        params.vocab_only = vocabulary_only
        self.handle = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise log.refusal(f"{path}: llama.cpp cannot load this model")
        self.vocab = llama.llama_model_get_vocab(self.handle)
        self.vocabulary_size: int = llama.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._adapters: dict[FileVersion, Any] = {}
        self._templates = TemplateWorker()

    def close(self) -> None:
        """Free the weights and the adapters; contexts of the model must be freed before."""
        self._templates.close()
        if self.handle:
            llama.llama_model_free(self.handle)
            self.handle = None

    @cached_property
    def chat_template(self) -> str:
        """The template in the GGUF file. Raises BadInput when it has none."""
        template = llama.llama_model_chat_template(self.handle, None)
        if not template:
            raise BadInput(
                f"{self.path}: field tokenizer.chat_template: missing; use a chat model, or "
                "give it one with convert merge --chat-template"
            )
        return str(template.decode("utf-8", "replace"))

    def render(self, messages: Sequence[Message], *, generate: bool = True) -> str:
        """The conversation, with ``generate`` up to where the assistant's next turn begins.

        A template that takes no system prompt gets it in the first user turn. Raises BadInput
        naming the file when its template fails on these messages.
        """
        with bad_input(self.path.name, BadInput):
            folded = messages if self.takes_system else fold_system(messages)
            return self._render(folded, generate=generate)

    @cached_property
    def takes_system(self) -> bool:
        """Whether the chat template writes system prompts."""
        return takes_system(self._render)

    def _render(self, messages: Sequence[Message], *, generate: bool = True) -> str:
        return self._templates.render(
            self.chat_template, messages, generate=generate, bos=self._bos, eos=self._eos
        )

    def tokenize(self, text: str, *, add_bos: bool = True, double_bos: bool = False) -> list[int]:
        """Token ids of a text; special tokens in it are recognised.

        ``add_bos`` puts the token of a sequence's beginning first, where the vocabulary asks for
        it and the text does not begin with it; with ``double_bos`` even if it does.
        """
        data = text.encode("utf-8", "replace")
        # some templates write a line break first
        has_one = bool(self._bos) and text.lstrip().startswith(self._bos)
        room = len(data) + 8
        tokens = (llama.llama_token * room)()
        # not llama.cpp's own special tokens: it would end a prompt with the end token, too
        count = llama.llama_tokenize(self.vocab, data, len(data), tokens, room, False, True)
        if count < 0:
            raise RuntimeError("llama.cpp could not tokenise the prompt")
        is_missing = add_bos and (double_bos or not has_one)
        first = self.first_token if is_missing else None
        return [*([] if first is None else [first]), *tokens[:count]]

    @cached_property
    def first_token(self) -> int | None:
        """The token of a sequence's beginning; None where the vocabulary does not ask for it."""
        bos = int(llama.llama_vocab_bos(self.vocab))
        return bos if llama.llama_vocab_get_add_bos(self.vocab) and bos >= 0 else None

    def piece(self, token: int) -> bytes:
        if token not in self._pieces:
            size = -llama.llama_token_to_piece(self.vocab, token, None, 0, 0, True)
            buffer = ctypes.create_string_buffer(size)
            llama.llama_token_to_piece(self.vocab, token, buffer, size, 0, True)
            self._pieces[token] = buffer.raw
        return self._pieces[token]

    def ends(self, token: int) -> bool:
        """Whether the token ends a turn."""
        return token in self._more_ends or bool(llama.llama_vocab_is_eog(self.vocab, token))

    @cached_property
    def _more_ends(self) -> frozenset[int]:
        ids = (self._metadata(MORE_END_TOKENS) or "").split(",")
        return frozenset(int(each) for each in ids if each.isdecimal())

    @cached_property
    def end_tokens(self) -> list[int]:
        """Every token that ends a turn, the end of sequence first."""
        eos = llama.llama_vocab_eos(self.vocab)
        others = [t for t in range(self.vocabulary_size) if t != eos and self.ends(t)]
        return [eos, *others] if eos >= 0 else others

    def adapter(self, path: Path) -> Any:
        """llama.cpp's handle of a GGUF LoRA; a file is read once, and again when it changes.

        Raises BadInput when the file is no LoRA of this model.
        """
        version = file_version(path)
        if version not in self._adapters:
            if not path.is_file():
                raise BadInput(f"{path}: no such adapter file")
            if not self._tried:
                try_model(self.path, path)
            log.capture()
            adapter = llama.llama_adapter_lora_init(self.handle, os.fsencode(path))
            if not adapter:
                raise log.refusal(f"{path}: not a LoRA adapter of {self.path.name}")
            self._adapters[version] = adapter
        return self._adapters[version]

    @cached_property
    def _bos(self) -> str:
        return self._special_text("bos", llama.llama_vocab_bos(self.vocab))

    @cached_property
    def _eos(self) -> str:
        return self._special_text("eos", llama.llama_vocab_eos(self.vocab))

    def _special_text(self, name: str, token: int) -> str:
        # where a file names none, llama.cpp takes token 11 of a byte-level BPE, a comma
        is_named = self._metadata(f"tokenizer.ggml.{name}_token_id") is not None
        is_guessed = not is_named and llama.llama_vocab_type(self.vocab) == BYTE_LEVEL
        if token < 0 or is_guessed:
            return ""
        return self.piece(token).decode("utf-8", "replace")

    def _metadata(self, key: str) -> str | None:
        """The text of a field of the file; None without it."""
        buffer = ctypes.create_string_buffer(4096)
        size = llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return None if size < 0 else buffer.value.decode("utf-8", "replace")


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one KV sequence, (n,), the first of them at ``position``.

    ``outputs``, (n,), says for each token whether the logits that follow it are computed.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: Sequence[bool]


class Context:
    """``sequences`` KV sequences of ``length`` tokens each of one model.

    K and V are of ``kv_type``, one of `KV_TYPES`. Flash attention is llama.cpp's choice on a GPU,
    and ``flash_attention`` says it for the CPU: some are a third faster with it, some a fifth
    slower. It is on for a quantized V, which llama.cpp refuses without. An ``exact`` context keeps
    K and V as F32, computes attention without shortcuts, on the CPU alone, and takes a text of
    ``length`` in one decode. ``threads`` defaults to the physical cores. ``tensor_callback`` is
    called while llama.cpp computes (see ``matrix_inputs_callback``). Raises BadInput when llama.cpp
    cannot make it. ``close`` frees it, which must be before the model's.
    """

    def __init__(
        self,
        model: Model,
        *,
        length: int,
        sequences: int = 1,
        threads: int | None = None,
        exact: bool = False,
        kv_type: str = KV_DEFAULT,
        flash_attention: bool = False,
        tensor_callback: Any = None,
    ) -> None:
        self.model, self.batch_size = model, length if exact else BATCH
        fix = "lower --parallel or --context" if sequences > 1 else "lower --context"
        fix += "" if kv_type == KV_DEFAULT else ", or take --kv-type F16"
        self._fix = "" if exact else fix  # of too little memory
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * length, sequences
        params.n_batch = self.batch_size
        params.n_ubatch = length if exact else MICROBATCH
        # a cache of its own per sequence: in a unified one every token attends to all sequences'
        # cells, masked, which cost a quarter of the rollouts per minute with 8 sequences
        params.kv_unified = False
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        takes_flash = flash_attention and not (exact or model.on_gpu)
        if kv_type != KV_DEFAULT or takes_flash:
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        elif exact or not model.on_gpu:
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = getattr(llama, f"GGML_TYPE_{kv_type}")
        if exact:
            params.type_k = params.type_v = llama.GGML_TYPE_F32
            # a GPU build would compute large batches there, in other precision
            params.op_offload = params.offload_kqv = False
        if tensor_callback is not None:
            params.cb_eval = self._callback = tensor_callback  # llama.cpp keeps no reference
        log.capture()
        self.handle = llama.llama_init_from_model(model.handle, params)
        if not self.handle:
            cache = "" if kv_type == KV_DEFAULT else f" with a {kv_type} cache"
            message = f"{model.path}: no context of {sequences} x {length} tokens{cache}"
            raise log.refusal(message, self._fix)
        self._memory = llama.llama_get_memory(self.handle)
        self._batch = llama.llama_batch_init(self.batch_size, 0, 1)

    def close(self) -> None:
        """Free the context; the model stays."""
        if self.handle:
            llama.llama_batch_free(self._batch)
            llama.llama_free(self.handle)
            self.handle = None

    def require_open(self) -> None:
        """Raises RuntimeError after `close`: llama.cpp would read freed memory."""
        if not self.handle:
            raise RuntimeError("the engine is closed; open another one")

    def use_adapters(self, paths: Sequence[Path]) -> None:
        """Compute with these GGUF LoRAs on the model, or with none.

        Raises BadInput when a file is no LoRA of the model.
        """
        adapters = [self.model.adapter(path) for path in paths]
        handles = (llama.llama_adapter_lora_p_ctypes * len(adapters))(*adapters)
        scales = (ctypes.c_float * len(adapters))(*[1.0] * len(adapters))
        log.capture()
        if llama.llama_set_adapters_lora(self.handle, handles, len(adapters), scales) != 0:
            raise log.refusal(f"{', '.join(map(str, paths))}: llama.cpp does not apply it")

    def clear(self) -> None:
        self.require_open()
        llama.llama_memory_clear(self._memory, True)

    def copy(self, source: int, target: int) -> None:
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def cut(self, sequence: int, length: int) -> int:
        """Keep the first ``length`` tokens of a sequence, or none; returns how many."""
        if llama.llama_memory_seq_rm(self._memory, sequence, length, -1):
            return length
        # recurrent and sliding-window caches cannot always be cut: compute them anew
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def decode(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        """Evaluate at most ``batch_size`` tokens; the logits, (number of outputs, vocabulary).

        The logits are llama.cpp's memory, which the next decode overwrites. Raises BadInput when
        llama.cpp cannot evaluate the batch, and ValueError for too many tokens.
        """
        self.require_open()
        outputs = self._fill_batch(segments)
        log.capture()
        if llama.llama_decode(self.handle, self._batch) != 0:
            message = f"{self.model.path}: llama.cpp cannot evaluate a batch"
            raise log.refusal(message, self._fix)
        shape = (outputs, self.model.vocabulary_size)
        if not outputs:
            return np.zeros(shape, np.float32)
        return np.ctypeslib.as_array(llama.llama_get_logits(self.handle), shape)

    def _fill_batch(self, segments: Sequence[Segment]) -> int:
        """Write the segments into llama.cpp's batch; the number of outputs."""
        batch, row = self._batch, 0
        if sum(len(segment.tokens) for segment in segments) > self.batch_size:
            raise ValueError(f"more than {self.batch_size} tokens in one decode")
        for segment in segments:
            pairs = zip(segment.tokens, segment.outputs, strict=True)
            for position, (token, output) in enumerate(pairs, segment.position):
                batch.token[row], batch.pos[row], batch.logits[row] = token, position, output
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, segment.sequence
                row += 1
        batch.n_tokens = row
        return sum(sum(segment.outputs) for segment in segments)


def physical_cores() -> int:
    """Physical cores that this process may use, at least one."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count(only_physical_cores=True))


def _check_magic(path: Path) -> None:
    try:
        with regular_file(path, "name a GGUF file").open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name a GGUF file") from None
    if magic != b"GGUF":
        raise BadInput(f"{path}: not a GGUF file (it begins with {magic!r}); name a GGUF model")


def file_version(path: Path) -> FileVersion:
    """What changes when another file takes a path: the time of modification and the size."""
    try:
        status = path.stat()
    except OSError:  # whoever reads it says what is wrong
        return path, 0, 0
    return path, status.st_mtime_ns, status.st_size
