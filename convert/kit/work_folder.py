"""The work folder of the kit's recipe: records of steps, answers, trained adapters."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from sklearn.metrics import f1_score

from charprobe_lite.convert.quiet import quiet
from charprobe_lite.convert.train.answers import (
    ANSWER_TOKENS,
    answer_engine,
    chat_answers,
    complete_sentences,
)
from charprobe_lite.convert.train.encoding import encoder_of
from charprobe_lite.convert.train.lora import (
    LoraSettings,
    Precision,
    Progress,
    Tensors,
    load_base,
    train_sft,
    training_platform,
    write_gguf,
)
from charprobe_lite.convert.train.losses import Example, mean_losses
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json, read_json_rows
from charprobe_lite.runtime.engine import Engine

RECIPE_VERSION = 2
STAGES = ("distillation", "full")
Record = dict[str, Any]
Step = Callable[[], Record]
REFLECTION_TOKENS = 224
VARIANT = {"base": None, "tool_use": None, "precision": None}
"""The fields of `WorkFolder.variant` where the recipe is that of the shipped kit."""


@dataclass
class WorkFolder:
    """A folder of one run: base, seed, records of steps, and progress display.

    ``base`` is a GGUF file, whose chat template, tokens and shapes everything uses; ``weights`` is
    the checkpoint folder that it was made from, where it was made from one. ``precision`` is that
    of the frozen base in training, as `load_base` has it.
    """

    work: Path
    base: Path
    seed: int = 0
    weights: Path | None = None
    precision: Precision | None = None
    report: Callable[[str], None] = print
    progress: Callable[[str], AbstractContextManager[Progress]] | None = None
    _loaded: tuple[Path, Any] | None = None
    _engine: tuple[Path, Engine] | None = None

    @property
    def kit(self) -> Path:
        """The folder with what is shipped."""
        return self.work / "kit"

    @property
    def variant(self) -> Record:
        """What tells a recipe from that of the shipped kit, for the records of its steps."""
        return {}

    @property
    def merged(self) -> Path:
        """The base with tool use merged in, F16."""
        return self.work / "base.gguf"

    def adapter(self, persona: str, stage: str, train_seed: int) -> Path:
        """The GGUF LoRA of a persona's stage; the recipe's own seed is the one that is shipped."""
        name = f"{persona}-{stage}.gguf"
        return (self.kit if train_seed == self.seed else self.work / f"seed-{train_seed}") / name

    def run_step(self, name: str, step: Step) -> None:
        """Run a step unless its record is there; the record is written when the step is done."""
        path = self.work / "steps" / f"{name}.json"
        head = {"step": name, "recipe": RECIPE_VERSION, "seed": self.seed, **self.variant}
        if path.exists():
            record = read_json(path)
            for field, value in {**VARIANT, **head}.items():
                if record.get(field) != value:
                    raise BadInput(
                        f"{path}: field {field}: {record.get(field)!r}, this run {value!r}; "
                        "choose another --out"
                    )
            return
        self.report(f"recipe: {name}")
        started = time.monotonic()
        with quiet():
            record = step()
        seconds = round(time.monotonic() - started, 1)
        write_text(path, json.dumps({**head, **record, "seconds": seconds}, indent=1))

    def train(
        self,
        target: Path,
        base: Path,
        examples: Sequence[Example],
        settings: LoraSettings,
        start: Path | None = None,
    ) -> Record:
        """Train an adapter by SFT and keep it twice, to run and to continue from."""
        with self.bar(target.stem) as progress:
            tensors, losses = train_sft(self.load_base(base), examples, settings, start, progress)
        self.keep_adapter(target, tensors, settings)
        tokens = sum(len(example.ids) for example in examples)
        return {
            "tokens": tokens,
            "losses": mean_losses(losses),
            "settings": asdict(settings),
            "platform": training_platform(),
        }

    def keep_adapter(self, target: Path, tensors: Tensors, settings: LoraSettings) -> None:
        """Write trained tensors as a GGUF LoRA of the base, and as safetensors in the work."""
        write_gguf(tensors, settings, self.base, target)
        save_file(tensors, self.resumable(target))

    def resumable(self, target: Path) -> Path:
        """The safetensors of an adapter, from which training goes on."""
        folder = self.work / "safetensors" / target.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{target.stem}.safetensors"

    def encode(
        self, conversations: Sequence[list[dict[str, str]]], untrained: Sequence[str] = ()
    ) -> list[Example]:
        """Conversations in the base's chat template and tokens; ``untrained`` passages masked."""
        encoder = encoder_of(self.base)
        return [encoder.conversation(messages, untrained) for messages in conversations]

    def load_base(self, base: Path) -> Any:
        """The base in torch; the last one stays loaded."""
        if self._loaded is None or self._loaded[0] != base:
            source = self.weights if base == self.base and self.weights else base
            self._loaded = (base, load_base(source, self.precision))
        return self._loaded[1]

    def bar(self, name: str) -> AbstractContextManager[Progress | None]:
        """The display of a step's progress, if there is one."""
        return self.progress(name) if self.progress else nullcontext()

    def answers(
        self,
        model: Path,
        adapter: Path | None,
        prompts: Sequence[str],
        seed: int,
        tokens: int = ANSWER_TOKENS,
    ) -> list[str]:
        """One answer per prompt, in order; empty where the prompt fills the context."""
        if self._engine is None or self._engine[0] != model:
            if self._engine:
                self._engine[1].close()
            self._engine = (model, answer_engine(model))
        engine = self._engine[1]
        engine.use_adapter(adapter)
        return chat_answers(engine, str(adapter and adapter.stem), prompts, seed, tokens)

    def keep_answers(
        self, name: str, model: Path, adapter: Path | None, prompts: Sequence[str], seed: int
    ) -> Record:
        """Let a checkpoint answer, and keep what it says up to its last complete sentence."""
        answers = self.answers(model, adapter, prompts, seed)
        lines = ""
        for prompt, answer in zip(prompts, answers, strict=True):
            row = {"prompt": prompt, "response": complete_sentences(answer)}
            lines += json.dumps(row, ensure_ascii=False) + "\n"
        write_text(self.work / f"{name}.jsonl", lines)
        return {"texts": len(answers)}

    def read_lines(self, name: str) -> list[dict[str, str]]:
        """The prompts and responses that ``keep_answers`` wrote."""
        return [row for _, row in read_json_rows(self.work / f"{name}.jsonl")]

    def record(self, name: str) -> Record:
        """What a finished step recorded."""
        return dict(read_json(self.work / "steps" / f"{name}.json"))


def macro_f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Macro-F1 over the labels that occur, to four places."""
    score = f1_score(labels, predictions, labels=sorted(set(labels)), average="macro")
    return round(float(score), 4)


def write_text(path: Path, text: str) -> None:
    """Write a text so that the file is complete or absent."""
    with new_file(path) as part:
        part.write_text(text, "utf-8")
