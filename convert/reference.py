"""transformers' own logits of a checkpoint with a peft adapter, in the memory of one matrix.

The model is built without weights; each module's weights are read from the safetensors right
before it runs and dropped right after.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from charprobe_lite.convert.architectures import architecture_of, is_built_in, read_config
from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.lora import ORIGINAL, PREFIX, WEIGHTS, is_module_to_save, plain_name
from charprobe_lite.convert.quiet import quiet
from charprobe_lite.convert.safetensors import SafetensorsTensor, open_checkpoint, open_safetensors
from charprobe_lite.models.errors import BadInput, first_problem

Weight = Callable[[], torch.Tensor]
"""Reads a weight."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def reference_logits(
    folder: Path, adapters: Sequence[Path], ids: Sequence[int]
) -> NDArray[np.float32]:
    """Logits (len(ids), vocabulary) in float32 with eager attention.

    ``adapters`` is at most one PEFT folder. Raises BadInput when transformers or peft refuse.
    """
    try:
        with quiet():
            return _logits(folder, adapters, ids)
    except BadInput:
        raise
    except Exception as error:  # transformers and peft share no exception class
        reason = first_problem(error) or type(error).__name__
        raise BadInput(
            f"{adapters[0] if adapters else folder}: transformers cannot compute it ({reason}); "
            "--no-verify skips the check"
        ) from None


def _logits(folder: Path, adapters: Sequence[Path], ids: Sequence[int]) -> NDArray[np.float32]:
    checkpoint = open_checkpoint(folder)
    if not is_built_in(checkpoint.config):
        return _logits_in_memory(folder, adapters, ids)
    architecture = architecture_of(read_config(checkpoint.config, str(folder / "config.json")))
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    text = getattr(config, "text_config", config)
    text._attn_implementation = "eager"
    adapter = _read_peft(adapters[0], architecture) if adapters else _PeftFolder()
    weights = {**_stored_weights(folder, architecture), **adapter.base}
    if EMBEDDING in adapter.base:
        text.vocab_size = len(adapter.base[EMBEDDING]())
        weights |= {HEAD: adapter.base[EMBEDDING]} if architecture.tied else {}
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(text, dtype=torch.float32).eval()
    if adapter.config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapter.config, low_cpu_mem_usage=True).eval()
    _read_on_demand(model, weights, adapter.changes)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0]
    return np.asarray(logits.float().numpy())


def _logits_in_memory(
    folder: Path, adapters: Sequence[Path], ids: Sequence[int]
) -> NDArray[np.float32]:
    """The same for any architecture: all weights in memory, as float32."""
    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    for adapter in adapters:
        from peft import PeftModel

        # not merged: that would change a tied output with the embedding
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([list(ids)])).logits[0]
    return np.asarray(logits.float().numpy())


@dataclass(frozen=True)
class _PeftFolder:
    """A PEFT folder: ``changes`` are its layers' tensors, ``base`` those of the base that it has
    of its own, by their names in the language model; ``config`` names exactly these layers."""

    config: Any = None
    changes: dict[str, SafetensorsTensor] = field(default_factory=dict)
    base: Mapping[str, Weight] = field(default_factory=dict)


def _read_peft(folder: Path, architecture: Architecture) -> _PeftFolder:
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(folder), local_files_only=True)
    stored = open_safetensors(folder / WEIGHTS)
    tensors = _by_text_name({key.removeprefix(PREFIX): stored[key] for key in stored}, architecture)
    own_config = {"modules_to_save": config.modules_to_save}
    base: dict[str, Weight] = {}
    changes: dict[str, SafetensorsTensor] = {}
    targets, saved = set(), set()
    for name, tensor in tensors.items():
        plain = plain_name(name)
        if ".lora_" in name:
            targets.add(name.split(".lora_")[0])
            changes[name] = tensor
        elif ORIGINAL not in name and is_module_to_save(plain, own_config):
            saved.add(plain.rsplit(".", 1)[0])
            changes[plain] = tensor
        else:
            base[plain] = partial(_read, tensor)
    config.target_modules, config.layers_to_transform = sorted(targets), None
    config.modules_to_save = sorted(saved) or None
    config.inference_mode = True
    return _PeftFolder(config, changes, base)


def _read(tensor: SafetensorsTensor) -> torch.Tensor:
    return torch.from_numpy(tensor.read())


def _by_text_name(
    stored: Mapping[str, SafetensorsTensor], architecture: Architecture
) -> dict[str, SafetensorsTensor]:
    names = {name: architecture.text_name(name) for name in stored}
    return {plain: stored[name] for name, plain in names.items() if plain is not None}


def _stored_weights(folder: Path, architecture: Architecture) -> dict[str, Weight]:
    """How transformers reads each weight of the language model, by its name in it.

    transformers and accelerate find and map the files, so that a fault of our own reader shows.
    Raises BadInput for a weight that the files lack, which would be drawn at random.
    """
    with tempfile.TemporaryDirectory() as offload:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            device_map={"": "disk"},
            offload_folder=offload,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"{folder}: tensor {missing[0]}: missing; download the checkpoint again")
    weights: dict[str, Weight] = {}
    for name, module in model.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            plain = architecture.text_name(f"{name}.{key}")
            if plain is not None:
                weights[plain] = partial(module._hf_hook.weights_map.__getitem__, key)
    return weights


def _read_on_demand(
    model: Any, base: dict[str, Weight], adapter: dict[str, SafetensorsTensor]
) -> None:
    """Fill in the adapter now, and each module of the base when it runs."""
    for name, module in model.named_modules():
        weights = {}
        for key, parameter in list(module.named_parameters(recurse=False)):
            plain = f"{name}.{key}".removeprefix(PREFIX)
            if ".lora_" in plain or ".modules_to_save." in plain:
                stored = plain.replace(".default", "").replace(".modules_to_save", "")
                # PEFT's ensure_weight_tying: the output's copy is the embedding's
                stored = EMBEDDING if stored == HEAD and HEAD not in adapter else stored
                _fill(module, key, _read(adapter[stored]))
            elif parameter.device.type == "meta" and ".original_module." not in plain:
                weights[key] = base[plain.replace(".base_layer.", ".")]
        if weights:
            module.register_forward_pre_hook(partial(_fill_all, weights))
            module.register_forward_hook(partial(_drop_all, weights))


def _fill(module: Any, key: str, values: torch.Tensor) -> None:
    module._parameters[key] = torch.nn.Parameter(values, requires_grad=False)


def _fill_all(weights: dict[str, Weight], module: Any, _inputs: Any) -> None:
    for key, read in weights.items():
        _fill(module, key, read().float())


def _drop_all(weights: dict[str, Weight], module: Any, *_values: Any) -> None:
    for key in weights:
        _fill(module, key, torch.empty_like(module._parameters[key], device="meta"))
