"""Which fields of a spec apply to which backend."""

from __future__ import annotations

from importlib.util import find_spec

from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.errors import BadInput

ENGINE_FIELDS = (
    *("quants", "lora_modes", "gguf", "adapter", "verify"),
    *("gpu_layers", "threads", "context"),
)
SERVER_FIELDS = ("base_url", "models", "timeout")


def check_backend(spec: StudySpec) -> None:
    """Raises BadInput for a field that was set and does not apply to the spec's backend, and for
    a server without its URL, its models or the package that talks to it."""
    fields = type(spec).model_fields
    for name in ENGINE_FIELDS if spec.is_served else SERVER_FIELDS:
        if name in spec.model_fields_set:
            option = f"--{(fields[name].alias or name).replace('_', '-')}"
            if spec.is_served:
                raise BadInput(f"{option}: does not apply to --backend openai; leave it out")
            raise BadInput(f"{option}: is for a server; add --backend openai")
    if not spec.is_served:
        return
    if not (spec.base_url and spec.models):
        raise BadInput("--backend openai: needs --base-url URL and --model NAME")
    if not (find_spec("openai") and find_spec("anyio")):
        raise BadInput(
            "--backend openai: openai is not installed; pip install 'charprobe-lite[server]'"
        )
