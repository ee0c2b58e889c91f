"""The llama.cpp engine for one model, and the engine of the embedded kit."""

from typing import Any, Self

from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models.catalogue import EMBEDDED, STAGES, load_catalogue
from charprobe_lite.models.defaults import QUANT
from charprobe_lite.models.errors import BadInput, require_known, spelled, suggestion
from charprobe_lite.models.hub import fetch
from charprobe_lite.models.quant_types import QUANT_TYPES
from charprobe_lite.runtime import engine
from charprobe_lite.runtime.device import gpu_layers


class Engine(engine.Engine):
    """A GGUF model in llama.cpp with continuous batching and switchable LoRA adapters.

    A context manager: leaving it frees the model. Options as in `runtime.engine.Engine`.
    """

    @classmethod
    @spelled("argument")
    def kit(
        cls,
        persona: str | None = None,
        stage: str = "full",
        quant: str = QUANT,
        **options: Any,
    ) -> Self:
        """The embedded base (SmolLM2-135M with tool use), with one of the kit's personas.

        ``persona`` None is the base without an adapter, as is stage "base". ``quant`` is the
        weight type of the base; a type is quantized on first use and cached. ``options`` go to
        the engine: ``parallel`` rollouts at once, ``context`` tokens per rollout, ``threads``,
        ``gpu_layers``, ``temperature``, ``top_p``. Raises BadInput for an unknown name, and when
        the package of the embedded base is not installed.
        """
        require_known("--stage", stage, STAGES)
        require_known("--quant", quant, QUANT_TYPES)
        adapter = None
        if persona is not None and stage != "base":
            catalogue = load_catalogue()
            if (entry := catalogue.adapter(EMBEDDED, stage, persona)) is None:
                fix = suggestion(persona, catalogue.personas)
                raise BadInput(f"--persona {persona}: has no adapter in the kit; {fix}")
            adapter = fetch(entry)
        instance = cls(kit_base(quant), **{"gpu_layers": gpu_layers("auto"), **options})
        try:
            instance.use_adapter(adapter)
        except BaseException:
            instance.close()
            raise
        return instance
