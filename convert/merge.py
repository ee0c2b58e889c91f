"""A base and its LoRA adapters as one GGUF file, checked against the original."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from charprobe_lite.convert.gguf_model import (
    Progress,
    SourceModel,
    open_model,
    with_adapters,
    write_model,
)
from charprobe_lite.convert.imatrix import read_imatrix, refuse_other_model
from charprobe_lite.convert.llama_cpp_converter import (
    convert_by_script,
    find_converter,
    needs_converter,
)
from charprobe_lite.convert.quantize import (
    ROW_TYPES,
    GGUFFile,
    check_quant,
    quantize_file,
    written_file,
)
from charprobe_lite.convert.verify import refuse_unverifiable, verify_file, verify_in_child
from charprobe_lite.convert.vocabulary import read_template_file
from charprobe_lite.models.atomic import AT_ONCE, FOREVER, new_file
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_header
from charprobe_lite.models.hub import fetch

PACKAGE = "charprobe_lite."


def merge_lora(
    base: str | Path,
    adapters: str | Path | Sequence[str | Path],
    target: str | Path,
    quant: str = "F16",
    *,
    verify: bool = True,
    imatrix: str | Path | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    shared: bool = False,
    converter: str | Path | None = None,
    chat_template: str | Path | None = None,
) -> GGUFFile:
    """Write a base with LoRA adapters added to its weights as the GGUF file ``target``.

    ``base`` is a checkpoint folder, a GGUF model, or the name of a base in the catalogue, which
    is fetched; ``adapters`` are PEFT folders or GGUF LoRAs, one, or several in the order in which
    they are added. ``quant`` is a quant type of llama.cpp, ``imatrix`` an importance matrix for its
    quantizer, GGUF or .dat. ``progress`` is called with (bytes done, bytes in all) of the float32
    weights; ``threads`` defaults to all cores. With ``verify``, token ids and logits are compared
    with transformers and peft, or, where the base is a GGUF file, with llama.cpp and the adapters
    at run time.

    ``chat_template`` is a jinja file whose template takes the place of the model's own, or gives
    one to a model without.

    A checkpoint of an architecture that is not built in goes through ``converter``, llama.cpp's
    convert_hf_to_gguf.py (default: the one on the PATH); merged, as F16, in a temporary folder.

    A ``shared`` target may be written by another process: wait for it, and keep its file; verify
    in a child process, so that torch stays out of this one.

    Raises BadInput for an input that cannot be converted or verified, and for a file that differs
    from the original by more than rounding; ``target`` is then not written.

    LoRA: Hu et al. 2021, arXiv 2106.09685.
    """
    importance = read_imatrix(Path(imatrix)) if imatrix else None
    check_quant(quant, importance)
    catalogue = {} if Path(base).exists() else load_catalogue().bases
    base = fetch(catalogue[str(base)]) if str(base) in catalogue else Path(base)
    adapters = [adapters] if isinstance(adapters, str | Path) else adapters
    target, paths = Path(target), [Path(adapter) for adapter in adapters]
    if verify:
        refuse_unverifiable(base, paths)
    script = find_converter(Path(converter) if converter else None)
    model = None if needs_converter(base) else with_adapters(open_model(base), paths)
    if chat_template:
        model = _with_template(model, Path(chat_template))
    if importance and model:
        widths = {name: tensor.shape[-1] for name, tensor in model.tensors.items()}
        refuse_other_model(importance, widths, base)
    agreement = None
    with new_file(target, FOREVER if shared else AT_ONCE) as part:
        if shared and target.is_file():
            return written_file(target)
        # other types are quantized from an F16 file, which is the one that is verified
        direct = quant in (ROW_TYPES if model else ("F16",))
        exact = part if direct else part.with_name(f"{target.name}.f16.part")
        try:
            if model:
                write_model(model, exact, quant if direct else "F16", progress, threads)
            else:
                convert_by_script(script, base, paths, exact, progress)
            if verify:
                # an interpreter of its own does not know an architecture that was registered here
                ours = not model or type(model.architecture).__module__.startswith(PACKAGE)
                verify_in = verify_in_child if shared and ours else verify_file
                agreement = verify_in(exact, base, paths)
            if not direct:
                if importance and not model:
                    widths = {t.name: t.shape[0] for t in read_header(exact).tensors}
                    refuse_other_model(importance, widths, base)
                quantize_file(exact, part, quant, importance, threads)
        finally:
            if not direct:
                exact.unlink(missing_ok=True)
    return written_file(target, agreement)


def _with_template(model: SourceModel | None, path: Path) -> SourceModel:
    if model is None:
        raise BadInput("--chat-template: llama.cpp's converter takes the checkpoint's own")
    return replace(model, template=read_template_file(path))
