"""transformers' own logits of a checkpoint with a peft adapter, in the memory of one matrix.

The model is built without weights; each module's weights are read from the safetensors right
before it runs and dropped right after.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from charprobe_lite.convert.architectures import architecture_of, read_config
from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.lora import PREFIX, WEIGHTS
from charprobe_lite.convert.safetensors import SafetensorsTensor, open_checkpoint, open_safetensors
from charprobe_lite.models.errors import BadInput, first_problem


def reference_logits(
    folder: Path, adapters: Sequence[Path], ids: Sequence[int]
) -> NDArray[np.float32]:
    """Logits (len(ids), vocabulary) in float32 with eager attention.

    ``adapters`` is at most one PEFT folder. Raises BadInput when transformers or peft refuse.
    """
    checkpoint = open_checkpoint(folder)
    architecture = architecture_of(read_config(checkpoint.config, str(folder / "config.json")))
    try:
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        text = getattr(config, "text_config", config)
        text._attn_implementation = "eager"
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(text, torch_dtype=torch.float32).eval()
        changes: dict[str, SafetensorsTensor] = {}
        if adapters:
            model, changes = _with_peft(model, adapters[0], architecture)
        tensors = _by_text_name(checkpoint.tensors, architecture)
        if architecture.tied:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        _read_on_demand(model, tensors, changes)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([list(ids)])).logits[0]
    except BadInput:
        raise
    except Exception as error:  # transformers and peft share no exception class
        reason = first_problem(error) or type(error).__name__
        raise BadInput(
            f"{adapters[0] if adapters else folder}: transformers cannot compute it ({reason}); "
            "--no-verify skips the check"
        ) from None
    return np.asarray(logits.float().numpy())


def _with_peft(
    model: Any, folder: Path, architecture: Architecture
) -> tuple[Any, dict[str, SafetensorsTensor]]:
    """The model with the adapter's layers, still empty, and the adapter's tensors by name."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig.from_pretrained(str(folder), local_files_only=True)
    stored = open_safetensors(folder / WEIGHTS)
    tensors = _by_text_name({key.removeprefix(PREFIX): stored[key] for key in stored}, architecture)
    targets = {name.split(".lora_")[0] for name in tensors if ".lora_" in name}
    saved = {name.rsplit(".", 1)[0] for name in tensors if ".lora_" not in name}
    config.target_modules, config.layers_to_transform = sorted(targets), None
    config.modules_to_save = sorted(saved) or None
    config.inference_mode = True
    return get_peft_model(model, config, low_cpu_mem_usage=True).eval(), tensors


def _by_text_name(
    stored: Mapping[str, SafetensorsTensor], architecture: Architecture
) -> dict[str, SafetensorsTensor]:
    names = {name: architecture.text_name(name) for name in stored}
    return {plain: stored[name] for name, plain in names.items() if plain is not None}


def _read_on_demand(
    model: Any, base: dict[str, SafetensorsTensor], adapter: dict[str, SafetensorsTensor]
) -> None:
    """Fill in the adapter now, and each module of the base when it runs."""
    for name, module in model.named_modules():
        tensors = {}
        for key, parameter in list(module.named_parameters(recurse=False)):
            plain = f"{name}.{key}".removeprefix(PREFIX)
            if ".lora_" in plain or ".modules_to_save." in plain:
                stored = plain.replace(".default", "").replace(".modules_to_save", "")
                _fill(module, key, adapter[stored])
            elif parameter.device.type == "meta" and ".original_module." not in plain:
                tensors[key] = base[plain.replace(".base_layer.", ".")]
        if tensors:
            module.register_forward_pre_hook(partial(_fill_all, tensors))
            module.register_forward_hook(partial(_drop_all, tensors))


def _fill(module: Any, key: str, tensor: SafetensorsTensor) -> None:
    values = torch.from_numpy(tensor.read())
    module._parameters[key] = torch.nn.Parameter(values, requires_grad=False)


def _fill_all(tensors: dict[str, SafetensorsTensor], module: Any, _inputs: Any) -> None:
    for key, tensor in tensors.items():
        _fill(module, key, tensor)


def _drop_all(tensors: dict[str, SafetensorsTensor], module: Any, *_values: Any) -> None:
    for key, tensor in tensors.items():
        empty = torch.empty(tensor.shape, device="meta")
        module._parameters[key] = torch.nn.Parameter(empty, requires_grad=False)
