"""A text classifier, ModernBERT or BERT and its kin, as ONNX: fp32, dynamic int8, fp16 for GPUs.

The quantization is ONNX Runtime's. Every file is held against torch on texts of the corpus before
the folder gets its final name.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import Tokenizer

from charprobe_lite.convert.onnx_graph import write_graph
from charprobe_lite.convert.quiet import quiet
from charprobe_lite.convert.safetensors import CheckpointFolder, open_checkpoint
from charprobe_lite.models import corpus
from charprobe_lite.models.atomic import AT_ONCE, FOREVER, new_folder
from charprobe_lite.models.child_process import run_main
from charprobe_lite.models.errors import BadInput, bad_input, first_problem
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.classifier import ClassifierConfig

Ids = NDArray[np.int64]
Batch = tuple[Ids, Ids]
"""Token ids and attention mask, each (texts, tokens)."""
Logits = NDArray[np.float64]
Run = Callable[[Ids, Ids], Any]
"""A batch's logits (texts, labels)."""

ARCHITECTURES = {
    "modernbert": "ModernBertForSequenceClassification",
    "bert": "BertForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "xlm-roberta": "XLMRobertaForSequenceClassification",
}
"""The class of transformers for each model_type that is converted."""
HEADS = ("classifier.weight", "classifier.out_proj.weight")
"""The tensor with a row for each label, in BERT's classes and in RoBERTa's."""
UNUSED = re.compile(
    r"(^|\.)(position_ids|token_type_ids)$|(^|\.)pooler\.|^(cls|lm_head|decoder|vocab_\w+)\."
)
"""Tensors that a classifier does not need: numbered positions, and the pretraining's heads."""
ONNX_FILES = {"fp32": "model.onnx", "int8": "model_int8.onnx", "fp16": "model_fp16.onnx"}
SHARED = ("config.json", "tokenizer.json")
LIMIT = 1e-3  # logits of the fp32 file, absolute, or relative to the largest where that is over 1
CHECK_TOKENS = 1024  # past every sliding window; attention to a longer text costs minutes
# fp16 rounds positions over 2048, and a sum over many tokens overflows: both stay fp32
PRECISE = re.compile(r"/rotary_emb/|^/[^/]+$")
MASKED = 1e4  # exp(-1e4) is 0, and two of them added do not overflow fp16


@dataclass(frozen=True)
class OnnxFile:
    """A written file: its type, its size, and how it compares with torch on the same texts.

    ``difference`` is the largest absolute difference of a logit, ``agreement`` the share of texts
    that get the same label; both None when nothing was compared.
    """

    type: str
    file: str
    bytes: int
    difference: float | None = None
    agreement: float | None = None


def export_classifier(
    source: Path,
    target: Path,
    types: Sequence[str] = ("fp32", "int8"),
    verify: bool = True,
    texts: Sequence[str] | None = None,
    wait: float = AT_ONCE,
) -> list[OnnxFile]:
    """Write the classifier folder ``source`` as ONNX files of ``types`` into the new ``target``.

    ``source`` holds config.json, safetensors and tokenizer.json; ``target`` gets the tokenizer, a
    config with the same ``id2label``, and one file of ONNX_FILES per type. With ``verify``, logits
    are compared on ``texts`` (else ``check_texts``), one by one and in a padded batch. Raises
    BadInput for a folder that is no such classifier, whose labels do not exclude one another, or
    that has a tensor which transformers does not read, and when a logit of the fp32 file differs
    by more than LIMIT or one of another is not finite; nothing then stays under ``target``.
    """
    checkpoint = open_checkpoint(source)
    check_config(checkpoint)
    tokenizer = _read_tokenizer(checkpoint)
    batches = _batches(texts or check_texts(), *tokenizer) if verify else []
    _require_packages()
    with new_folder(target, wait) as folder, quiet():
        model = _load_model(checkpoint)
        expected = _logits(_torch_run(model), batches)
        try:
            write_graph(model, folder / ONNX_FILES["fp32"])
            _write_config(model.config, folder)
            for kind, write in WRITERS.items():
                if kind in types:
                    write(folder / ONNX_FILES["fp32"], folder / ONNX_FILES[kind])
        except OSError:
            raise
        except Exception as error:  # exporter, onnx and ONNX Runtime share no exception class
            raise BadInput(f"{source}: cannot be exported: {first_problem(error)}") from None
        del model
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
        kinds = ("fp32", *types)  # the others are only as good as the fp32 file
        files = {kind: _compare(kind, folder, batches, expected) for kind in kinds}
        for file in folder.iterdir():
            if file.name not in (*SHARED, *(ONNX_FILES[kind] for kind in types)):
                file.unlink()
    return [files[kind] for kind in types]


def export_in_child(source: Path, target: Path, check: bool) -> None:
    """The fp32 file by a child process, after another that writes it: without torch here."""
    try:
        run_main("convert.onnx", source, target, *(["check"] if check else []))
    except BadInput:
        if not target.is_dir():  # else the other process was faster
            raise


def main() -> None:
    """The child process: source, target and "check" as arguments."""
    source, target, *check = sys.argv[1:]
    export_classifier(Path(source), Path(target), ["fp32"], verify=bool(check), wait=FOREVER)


def check_config(checkpoint: CheckpointFolder) -> None:
    """Raises BadInput for what is none of ARCHITECTURES, or has not one label per logit."""
    config, path = checkpoint.config, checkpoint.folder / "config.json"
    kind, stated = str(config.get("model_type"))[:80], str(config.get("architectures"))[:80]
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise BadInput(f"{path}: field model_type: {kind}; classifiers of {known} are converted")
    if config.get("architectures") != [ARCHITECTURES[kind]]:
        raise BadInput(
            f"{path}: field architectures: {stated}; of {kind}, {ARCHITECTURES[kind]} is converted"
        )
    labels = config.get("id2label")
    if not isinstance(labels, dict) or set(labels) != {str(n) for n in range(len(labels))}:
        raise BadInput(f"{path}: field id2label: must map 0, 1, ... to the labels")
    if len(set(map(str, labels.values()))) != len(labels):
        raise BadInput(f"{path}: field id2label: a label appears twice; name every label once")
    name = HEADS["roberta" in kind]
    head = checkpoint.tensors.get(name)
    if head is None:
        raise BadInput(f"{checkpoint.folder}: has no tensor {name}; name a classifier")
    stated, rows = config.get("num_labels", len(labels)), head.shape[0] if head.shape else 0
    if not len(labels) == stated == rows:
        raise BadInput(
            f"{path}: field id2label: {len(labels)} labels, but num_labels is {stated} and "
            f"{name} has {rows} rows; they must agree"
        )


def check_texts() -> list[str]:
    """What the files are compared on: chat answers and emails of every persona, a word, a book."""
    texts = [
        text.response
        for persona in PERSONAS
        for kind in ("chat", "email")
        for text in corpus.teacher_texts(persona, "loud", kind)[:2]
    ]
    return ["Thanks.", *texts, "\n\n".join(texts)]


def _read_tokenizer(checkpoint: CheckpointFolder) -> tuple[Any, int]:
    """tokenizer.json, without padding and cut at CHECK_TOKENS, and the padding's id.

    Raises BadInput.
    """
    path, config = checkpoint.folder / "tokenizer.json", checkpoint.folder / "config.json"
    if not path.is_file():
        raise BadInput(f"{path}: missing; save the tokenizer as a fast one, next to the model")
    with bad_input(path, Exception):  # the library raises bare Exception
        tokenizer = Tokenizer.from_file(str(path))
    rows, last = checkpoint.config.get("vocab_size"), max(tokenizer.get_vocab().values(), default=0)
    if not isinstance(rows, int) or last >= rows:
        raise BadInput(f"{config}: field vocab_size: {rows!r}, but {path.name} has token {last}")
    with bad_input(config, ValidationError):
        read = ClassifierConfig.model_validate(checkpoint.config)
    with bad_input(f"{config}: field max_position_embeddings", Exception):
        tokenizer.enable_truncation(min(read.limit, CHECK_TOKENS))
    tokenizer.no_padding()
    return tokenizer, read.padding


def _batches(texts: Sequence[str], tokenizer: Any, pad: int) -> list[Batch]:
    """(ids, mask) of every text alone, and of some texts of all lengths padded to the longest."""
    rows = sorted((item.ids or [pad] for item in tokenizer.encode_batch(list(texts))), key=len)
    spread = rows[:: max(1, len(rows) // 4)]
    batches = []
    for batch in (*([row] for row in rows), spread):
        ids = np.full((len(batch), len(batch[-1])), pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(batch):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        batches.append((ids, mask))
    return batches


def _require_packages() -> None:
    """Raises BadInput for a missing package, before anything is computed."""
    try:
        import onnx  # noqa: F401
        import optimum.exporters.tasks  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"convert: {error.name} is not installed; pip install 'charprobe-lite[convert]'"
        ) from None


def _load_model(checkpoint: CheckpointFolder) -> Any:
    """The model in torch, float32, from safetensors alone. Raises BadInput."""
    import torch
    import transformers

    place = f"{checkpoint.folder}: transformers cannot load it"
    kind = checkpoint.config["model_type"]
    if "rope_parameters" in checkpoint.config and transformers.__version__.startswith("4."):
        raise BadInput(  # it would take its own default in silence
            f"{checkpoint.folder / 'config.json'}: field rope_parameters: transformers "
            f"{transformers.__version__} does not read it; convert with transformers 5"
        )
    with bad_input(place, Exception):  # a wrong type comes up anywhere
        model, report = getattr(transformers, ARCHITECTURES[kind]).from_pretrained(
            checkpoint.folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"{checkpoint.folder}: has no tensor {missing[0]}; download it again")
    if unread := [name for name in sorted(report["unexpected_keys"]) if not UNUSED.search(name)]:
        raise BadInput(
            f"{checkpoint.folder}: tensor {unread[0]}: no part of {ARCHITECTURES[kind]} in "
            f"transformers {transformers.__version__}; convert with a version that reads it"
        )
    return model.eval()


def _write_config(config: Any, folder: Path) -> None:
    """config.json with its labels, two of which transformers leaves out: LABEL_0 and LABEL_1."""
    config.save_pretrained(folder)
    path = folder / "config.json"
    fields = {**json.loads(path.read_text("utf-8")), "id2label": config.id2label}
    path.write_text(json.dumps(fields, indent=2), "utf-8")


def _write_int8(source: Path, target: Path) -> None:
    """Weights as int8: a scale per column of a MatMul, one scale of a table of embeddings.

    Activations are scaled at run time.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, per_channel=True)


def _write_fp16(source: Path, target: Path) -> None:
    """Weights and activations as fp16, for GPUs; inputs, logits and PRECISE stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    precise, inner = _precise(model.graph)
    # the converter sends what it knows the type of through fp16, even between two fp32 nodes
    typed = [value for value in model.graph.value_info if value.name not in inner]
    del model.graph.value_info[:]
    model.graph.value_info.extend(typed)
    half = convert_float_to_float16(
        model,
        max_finite_val=MASKED,
        keep_io_types=True,
        disable_shape_infer=True,
        node_block_list=precise,
    )
    OnnxModel(half).topological_sort()  # the converter puts its casts last
    onnx.save(half, target)


def _precise(graph: Any) -> tuple[list[str], set[str]]:
    """The names of the nodes that stay fp32, and the tensors that only these read and write."""
    others = [node for node in graph.node if not PRECISE.search(node.name)]
    inputs = {name for node in others for name in node.input}
    others = [node for node in others if node.op_type != "Constant" or inputs & {*node.output}]
    outside = {name for node in others for name in (*node.input, *node.output)}
    names = {node.name for node in others}
    precise = [node for node in graph.node if node.name not in names]
    inner = {name for node in precise for name in (*node.input, *node.output)}
    return [node.name for node in precise], inner - outside


WRITERS = {"int8": _write_int8, "fp16": _write_fp16}


def _compare(kind: str, folder: Path, batches: Sequence[Batch], expected: Logits) -> OnnxFile:
    """Run a file on the batches. Raises BadInput where fp32 is off, or a logit not finite."""
    path = folder / ONNX_FILES[kind]
    written = OnnxFile(kind, path.name, path.stat().st_size)
    if not batches:
        return written
    logits = _logits(_onnx_run(path), batches)
    difference = float(np.abs(logits - expected).max())
    limit = LIMIT * max(1.0, float(np.abs(expected).max())) if kind == "fp32" else np.inf
    if not difference <= limit or not np.isfinite(logits).all():
        raise BadInput(
            f"{path.name}: logits differ from torch's by {difference:.2g} (limit {limit:.2g}); "
            "report this conversion, or leave the type out"
        )
    same = float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean())
    return replace(written, difference=difference, agreement=same)


def _logits(run: Run, batches: Sequence[Batch]) -> Logits:
    """Logits of all batches' texts, (texts, labels)."""
    rows = [np.asarray(run(ids, mask), dtype=np.float64) for ids, mask in batches]
    return np.concatenate(rows) if rows else np.empty((0, 0))


def _torch_run(model: Any) -> Run:
    import torch

    def run(ids: Ids, mask: Ids) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(ids), torch.from_numpy(mask)).logits.numpy()

    return run


def _onnx_run(path: Path) -> Run:
    """Raises BadInput when ONNX Runtime cannot load the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions, too
    # ONNX Runtime's exceptions share no public base class
    with bad_input(f"{path.name}: ONNX Runtime cannot load it", Exception):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
