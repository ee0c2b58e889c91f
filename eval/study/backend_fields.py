"""Fields of a spec that apply to one backend alone."""

from importlib.util import find_spec

from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import QUANT_TYPES

ENGINE_FIELDS = (
    *("quants", "lora_modes", "kv_types", "gguf", "adapter", "verify"),
    *("gpu_layers", "threads", "flash_attention", "context"),
)
SERVER_FIELDS = ("base_url", "models", "timeout")


def check_backend(spec: StudySpec) -> None:
    """Raises BadInput for a field that was set and does not apply to the spec's backend or to a
    user's own model, and for a server without its URL, its models or the package that talks to it.
    """
    fields = type(spec).model_fields
    for name in ENGINE_FIELDS if spec.is_served else SERVER_FIELDS:
        if name in spec.model_fields_set:
            option = f"--{(fields[name].alias or name).replace('_', '-')}"
            if spec.is_served:
                raise BadInput(f"{option}: does not apply to --backend openai; leave it out")
            raise BadInput(f"{option}: is for a server; add --backend openai")
    if not spec.is_served:
        _refuse_other_quant(spec)
        return
    if not (spec.base_url and spec.models):
        raise BadInput("--backend openai: needs --base-url URL and --model NAME")
    if not (find_spec("openai") and find_spec("anyio")):
        raise BadInput(
            "--backend openai: openai is not installed; pip install 'charprobe-lite[server]'"
        )


def _refuse_other_quant(spec: StudySpec) -> None:
    """Raises BadInput where a weight type was asked for that a user's own file does not have."""
    from charprobe_lite.models.gguf_header import weight_summary

    if spec.gguf is None or spec.makes_models or "quants" not in spec.model_fields_set:
        return
    asked, held = select_names(spec.quants, QUANT_TYPES, "--quant"), weight_summary(spec.gguf).name
    for quant in asked:
        if quant != held:
            raise BadInput(
                f"--quant {quant}: {spec.gguf} is {held}; make a file of that type first: "
                f"charprobe-lite convert quantize --model {spec.gguf} --quant {quant}"
            )
