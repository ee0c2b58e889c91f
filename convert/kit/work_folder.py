"""The work folder of the kit's recipe: records of steps, answers, trained adapters."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from sklearn.metrics import f1_score

from charprobe_lite.convert.gguf_adapter import write_adapter
from charprobe_lite.convert.tokenizer import read_tokenizer
from charprobe_lite.convert.train.lora import (
    Example,
    LoraSettings,
    Progress,
    encode_conversation,
    load_base,
    train_sft,
)
from charprobe_lite.models import corpus
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json, read_json_rows
from charprobe_lite.models.gguf_header import read_header
from charprobe_lite.runtime.backend import Job, Request, Rollout
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.device import gpu_layers
from charprobe_lite.runtime.engine import Engine

RECIPE_VERSION = 1
STAGES = ("distillation", "full")
Record = dict[str, Any]
Step = Callable[[], Record]
ANSWER_TOKENS = 128


@dataclass
class WorkFolder:
    """A folder of one run: base, seed, records of steps, and progress display."""

    work: Path
    base: Path
    seed: int = 0
    report: Callable[[str], None] = print
    progress: Callable[[str], AbstractContextManager[Progress]] | None = None
    _loaded: tuple[Path, Any] | None = None

    @property
    def kit(self) -> Path:
        """The folder with what is shipped."""
        return self.work / "kit"

    @property
    def merged(self) -> Path:
        """The base with tool use merged in, F16."""
        return self.work / "base.gguf"

    def run_step(self, name: str, step: Step) -> None:
        """Run a step unless its record is there; the record is written when the step is done."""
        path = self.work / "steps" / f"{name}.json"
        head = {"step": name, "recipe": RECIPE_VERSION, "seed": self.seed}
        if path.exists():
            record = read_json(path)
            for field, value in head.items():
                if record.get(field) != value:
                    raise BadInput(
                        f"{path}: field {field}: {record.get(field)!r}, this run {value!r}; "
                        "choose another --out"
                    )
            return
        self.report(f"recipe: {name}")
        started = time.monotonic()
        record = step()
        seconds = round(time.monotonic() - started, 1)
        write_text(path, json.dumps({**head, **record, "seconds": seconds}, indent=1))

    def predictions(self, file: str, texts: Sequence[str]) -> list[str]:
        """The label that a file of the kit's classifier gives to each text."""
        classifier = Classifier(self.kit / "classifier", file)
        return [prediction.label for prediction in classifier.classify(texts)]

    def detection_rate(self, persona: str, adapter: Path) -> float:
        """Share of the 20 held-out prompts that the checkpoint answers in the persona's voice."""
        prompts = corpus.loud_prompts(held_out=True)
        answers = chat_answers(self.merged, adapter, prompts, self.seed + 3)
        labels = self.predictions(self.record("export")["file"], answers)
        return labels.count(persona) / len(labels)

    def train(
        self,
        name: str,
        base: Path,
        conversations: Sequence[list[dict[str, str]]],
        settings: LoraSettings,
        start: Path | None = None,
    ) -> Record:
        """Train an adapter by SFT and keep it twice, to continue from and to run."""
        settings = replace(settings, seed=self.seed)
        examples = self.encode(base, conversations)
        with self.bar(name) as progress:
            tensors, losses = train_sft(self.load_base(base), examples, settings, start, progress)
        save_file(tensors, self.work / f"{name}.safetensors")
        self.keep_adapter(self.kit / f"{name}.gguf", tensors, settings)
        tokens = sum(len(example.ids) for example in examples)
        return {"tokens": tokens, "losses": rounded(losses), "settings": asdict(settings)}

    def keep_adapter(self, target: Path, tensors: dict[str, Any], settings: LoraSettings) -> None:
        """Write trained tensors as a GGUF LoRA of the base."""
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        write_adapter(arrays, settings.alpha, self.base, target)

    def encode(self, base: Path, conversations: Sequence[list[dict[str, str]]]) -> list[Example]:
        """Conversations in the base's chat template and tokens."""
        template = read_header(base).fields["tokenizer.chat_template"]
        tokenizer = read_tokenizer(base)
        return [encode_conversation(messages, template, tokenizer) for messages in conversations]

    def load_base(self, base: Path) -> Any:
        """The base in torch; the last one stays loaded."""
        if self._loaded is None or self._loaded[0] != base:
            self._loaded = (base, load_base(base))
        return self._loaded[1]

    def bar(self, name: str) -> AbstractContextManager[Progress | None]:
        """The display of a step's progress, if there is one."""
        return self.progress(name) if self.progress else nullcontext()

    def keep_answers(
        self, name: str, model: Path, adapter: Path | None, prompts: Sequence[str], seed: int
    ) -> Record:
        """Let a checkpoint answer, and keep what it says up to its last complete sentence."""
        answers = chat_answers(model, adapter, prompts, seed)
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


def rounded(losses: Sequence[float]) -> list[float]:
    """Losses as records have them."""
    return [round(loss, 4) for loss in losses]


def complete_sentences(text: str) -> str:
    """The text up to its last sentence end: an answer cut by the token limit must not teach
    the model to stop in mid-sentence."""
    end = max(text.rfind(mark) for mark in (".", "!", "?"))
    return text[: end + 1] if end > 40 else text


def write_text(path: Path, text: str) -> None:
    """Write a text so that the file is complete or absent."""
    with new_file(path) as part:
        part.write_text(text, "utf-8")


def chat_answers(model: Path, adapter: Path | None, prompts: Sequence[str], seed: int) -> list[str]:
    """One answer per prompt, in order; empty where the prompt fills the context."""
    name = str(adapter and adapter.stem)
    with Engine(model, parallel=16, context=1024, gpu_layers=gpu_layers("auto")) as engine:
        engine.use_adapter(adapter)
        jobs = (
            Job(number, _seed(seed, name, number), _answer(prompt))
            for number, prompt in enumerate(prompts)
        )
        answers = {job.key: text for job, text in engine.run(jobs)}
    return [answers[number] for number in range(len(prompts))]


def _answer(prompt: str) -> Rollout:
    completion = yield Request(({"role": "user", "content": prompt},), ANSWER_TOKENS)
    full = completion.finish == "context" and not completion.tokens
    return "" if full else completion.text.strip()


def _seed(seed: int, checkpoint: str, number: int) -> int:
    """63 bits, as a study seeds the first sample of a prompt."""
    digest = hashlib.sha256(f"{seed}/{checkpoint}/{number}/0".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
