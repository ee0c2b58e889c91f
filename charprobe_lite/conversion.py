"""Conversions of ``charprobe-lite convert`` from Python, with errors that name arguments."""

from collections.abc import Sequence
from pathlib import Path

from charprobe_lite.convert import gguf_adapter, merge, onnx
from charprobe_lite.convert import quantize as quantizer
from charprobe_lite.models.errors import spelled

merge_lora = spelled("argument")(merge.merge_lora)
convert_adapter = spelled("argument")(gguf_adapter.convert_adapter)
quantize = spelled("argument")(quantizer.quantize)


@spelled("argument")
def export_classifier(
    source: str | Path,
    target: str | Path,
    types: Sequence[str] = ("fp32", "int8"),
    *,
    verify: bool = True,
) -> list[onnx.OnnxFile]:
    """Write a text classifier's folder as ONNX files into the new folder ``target``.

    ``source`` holds config.json, safetensors and tokenizer.json, of a ModernBERT, BERT,
    DistilBERT, RoBERTa or XLM-RoBERTa sequence classifier; ``types`` are of fp32, int8 and
    fp16. With ``verify``, logits are compared with torch. Raises BadInput for a folder that is no
    such classifier, and for logits that differ.
    """
    return onnx.export_classifier(Path(source), Path(target), types, verify)
