"""The fp32 ONNX graph of a text classifier, of token ids and attention mask alone."""

from pathlib import Path
from typing import Any

INPUTS = ("input_ids", "attention_mask")
OPSET = 17


def write_graph(model: Any, path: Path) -> None:
    """Write a transformers model's graph: int64 (batch, tokens) inputs, float32 logits.

    optimum-onnx's exporter writes it where that package works; it holds transformers below 4.58.
    Elsewhere optimum names the task and makes the inputs, and torch writes the graph. Raises what
    the exporters raise.
    """
    try:
        from optimum.exporters.onnx import export
    except ImportError:  # absent, or made for another transformers
        return _by_torch(model, path)
    return _by_optimum(model, path, export)


def _by_torch(model: Any, path: Path) -> None:
    import torch
    from optimum.exporters.tasks import TasksManager
    from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig

    task = TasksManager.infer_task_from_model(model, library_name="transformers")
    generator = DummyTextInputGenerator(task, NormalizedTextConfig(model.config))
    axes = {0: "batch_size", 1: "sequence_length"}
    torch.onnx.export(
        model,
        kwargs={name: generator.generate(name) for name in INPUTS},
        f=str(path),
        input_names=list(INPUTS),
        output_names=["logits"],
        dynamic_axes={**dict.fromkeys(INPUTS, axes), "logits": {0: "batch_size"}},
        opset_version=OPSET,
        dynamo=False,  # names the nodes after the modules, which the fp16 file needs
    )


def _by_optimum(model: Any, path: Path, export: Any) -> None:
    from optimum.exporters.tasks import TasksManager

    # without token types, which are 0 in a text alone, BERT's inputs are DistilBERT's
    kind = "distilbert" if model.config.model_type == "bert" else model.config.model_type
    exporter = TasksManager.get_exporter_config_constructor(
        "onnx", model_type=kind, task="text-classification", library_name="transformers"
    )(model.config)
    export(model, exporter, path)
