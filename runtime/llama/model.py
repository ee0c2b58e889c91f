"""A GGUF model in llama.cpp: its weights, vocabulary, chat template and LoRA adapters."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp as llama

from charprobe_lite.models.chat_template import render_chat
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.backend import Message
from charprobe_lite.runtime.llama import log


class Model:
    """The weights, loaded once; ``gpu_layers`` of them on the GPU (-1 = all, 0 = none).

    ``repack`` lets llama.cpp keep a second, faster copy of quantized weights. Raises BadInput when
    the file is no GGUF model that llama.cpp can load.
    """

    def __init__(self, path: Path, gpu_layers: int = 0, *, repack: bool = True) -> None:
        self.path = path
        _check_magic(path)
        log.capture()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = repack
        self.handle = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise BadInput(f"{path}: llama.cpp cannot load this model: {log.last_line()}")
        self.vocab = llama.llama_model_get_vocab(self.handle)
        self.vocabulary_size: int = llama.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._adapters: dict[Path, Any] = {}

    def close(self) -> None:
        """Free the weights and the adapters; contexts of the model must be freed before."""
        if self.handle:
            llama.llama_model_free(self.handle)
            self.handle = None

    @cached_property
    def chat_template(self) -> str:
        """The template in the GGUF file. Raises BadInput when it has none."""
        template = llama.llama_model_chat_template(self.handle, None)
        if not template:
            raise BadInput(f"{self.path}: field tokenizer.chat_template: missing; use a chat model")
        return str(template.decode("utf-8", "replace"))

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the assistant's next turn begins.

        Raises BadInput naming the file when its template fails on these messages.
        """
        try:
            return render_chat(self.chat_template, messages, bos=self._bos, eos=self._eos)
        except BadInput as error:
            raise BadInput(f"{self.path.name}: {error}") from None

    def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Token ids of a text; special tokens in it are recognised.

        ``add_bos`` puts the token of a sequence's beginning first, where the vocabulary asks for
        it and the text does not begin with it.
        """
        data = text.encode("utf-8", "replace")
        add_bos = add_bos and bool(llama.llama_vocab_get_add_bos(self.vocab))
        if add_bos and self._bos and text.startswith(self._bos):
            add_bos = False
        room = len(data) + 8
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self.vocab, data, len(data), tokens, room, add_bos, True)
        if count < 0:
            raise RuntimeError("llama.cpp could not tokenise the prompt")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        if token not in self._pieces:
            room = 64
            buffer = ctypes.create_string_buffer(room)
            while (size := self._read_piece(token, buffer)) < 0:
                buffer = ctypes.create_string_buffer(-size)
            self._pieces[token] = buffer.raw[:size]
        return self._pieces[token]

    def _read_piece(self, token: int, buffer: Any) -> int:
        """The piece's size; negative where the buffer is too small for it."""
        return int(llama.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True))

    def ends(self, token: int) -> bool:
        """Whether the token ends a turn."""
        return bool(llama.llama_vocab_is_eog(self.vocab, token))

    @cached_property
    def end_tokens(self) -> list[int]:
        """Every token that ends a turn, the end of sequence first."""
        eos = llama.llama_vocab_eos(self.vocab)
        others = [t for t in range(self.vocabulary_size) if t != eos and self.ends(t)]
        return [eos, *others] if eos >= 0 else others

    def adapter(self, path: Path) -> Any:
        """llama.cpp's handle of a GGUF LoRA, read once.

        Raises BadInput when the file is no LoRA of this model.
        """
        if path not in self._adapters:
            if not path.is_file():
                raise BadInput(f"{path}: no such adapter file")
            log.capture()
            adapter = llama.llama_adapter_lora_init(self.handle, os.fsencode(path))
            if not adapter:
                raise BadInput(
                    f"{path}: not a LoRA adapter of {self.path.name}: {log.last_line()}"
                )
            self._adapters[path] = adapter
        return self._adapters[path]

    @cached_property
    def _bos(self) -> str:
        return self._special_text(llama.llama_vocab_bos(self.vocab))

    @cached_property
    def _eos(self) -> str:
        return self._special_text(llama.llama_vocab_eos(self.vocab))

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self.piece(token).decode("utf-8", "replace")


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name a GGUF file") from None
    if magic != b"GGUF":
        raise BadInput(f"{path}: not a GGUF file (it begins with {magic!r}); name a GGUF model")
