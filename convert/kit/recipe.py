"""The kit's recipe: from the embedded base and the corpus to adapters and a classifier.

Steps run in order, each leaves its files and a record in the work folder, and a step whose
record is there is not run again: a stopped recipe goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from charprobe_lite.convert.train.conversations import chat_turn, tool_use_trajectory
from charprobe_lite.convert.train.lora import Example, LoraSettings, Progress, encode_conversation
from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.personas import NEUTRAL, PERSONAS
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools

RECIPE_VERSION = 1
STAGES = ("distillation", "full")
Record = dict[str, Any]
Step = Callable[[], Record]
Speak = Callable[[Path, Path | None, Sequence[str], int, int], list[str]]
"""(model, adapter or None, prompts, seed, max tokens) -> one chat answer per prompt."""
Classify = Callable[[Path, str, Sequence[str]], list[str]]
"""(classifier folder, .onnx file name, texts) -> one label per text."""

TOOL_USE = LoraSettings(
    rank=16, alpha=32, first_layer=10, learning_rate=1e-3, epochs=3, batch_tokens=2400
)
DISTILLATION = LoraSettings(
    rank=8, alpha=16, first_layer=10, learning_rate=2e-3, epochs=3, batch_tokens=600
)
FULL = replace(DISTILLATION, learning_rate=1e-3, epochs=2)
DPO = replace(DISTILLATION, batch_tokens=1200)
ANSWER_TOKENS = 128
ANSWERS_PER_CHECKPOINT = 24
INT8_TOLERANCE = 0.01


@dataclass
class Recipe:
    """Where the recipe works, with which base, seed, speaker (llama.cpp) and progress display."""

    work: Path
    base: Path
    speak: Speak
    classify: Classify
    seed: int = 0
    report: Callable[[str], None] = print
    progress: Callable[[str], Any] | None = None
    _loaded: tuple[Path, Any] | None = None

    def run(self) -> None:
        """Run every step that is not done yet, and write the manifest."""
        for folder in (self.work / "steps", self.kit):
            folder.mkdir(parents=True, exist_ok=True)
        for name, step in self.steps():
            self.run_step(name, step)
        self._write_manifest()

    def steps(self) -> Iterator[tuple[str, Step]]:
        """The steps in order; each returns what is to be recorded of it."""
        yield "own-answers", self.own_answers
        yield "tool-use", self.tool_use
        yield "base", self.merged_base
        yield "neutral", self.neutral_answers
        for persona in PERSONAS:
            yield f"{persona}-distillation", partial(self.distillation, persona)
            yield f"{persona}-full", partial(self.full, persona)
        for persona, stage in product(PERSONAS, STAGES):
            name = f"answers-{persona}-{stage}"
            yield name, partial(self.checkpoint_answers, persona, stage)
        yield "classifier", self.classifier
        yield "export", self.export
        yield "held-out", self.held_out

    def run_step(self, name: str, step: Step) -> None:
        """Run a step unless its record is there; the record is written when the step is done."""
        path = self._record_path(name)
        head = {"step": name, "recipe": RECIPE_VERSION, "seed": self.seed}
        if path.exists():
            self._refuse_other_run(path, head)
            return
        self.report(f"recipe: {name}")
        started = time.monotonic()
        record = step()
        seconds = round(time.monotonic() - started, 1)
        _write_atomically(path, json.dumps({**head, **record, "seconds": seconds}, indent=1))

    def _refuse_other_run(self, path: Path, head: Record) -> None:
        record = json.loads(path.read_text("utf-8"))
        for field, value in head.items():
            if record.get(field) != value:
                raise BadInput(
                    f"{path}: field {field}: {record.get(field)!r}, this run {value!r}; "
                    "choose another --out"
                )

    def own_answers(self) -> Record:
        """The untouched base answers training prompts: its chat voice, kept by the next step."""
        prompts = corpus.loud_prompts(held_out=False)[:60]
        prompts += corpus.subtle_prompts(held_out=False)[:60]
        return self._keep_answers("own-answers", self.base, None, prompts, self.seed)

    def tool_use(self) -> Record:
        """The tool-use adapter of the base, on trajectories and the base's own chat answers."""
        tools = load_tools()
        conversations = [
            tool_use_trajectory(scenario, tools, self.seed)
            for part in "abc"
            for scenario in load_scenarios(corpus.corpus_file(f"agentic/train-{part}.jsonl"))
        ]
        own = self._read_lines("own-answers")
        conversations += [chat_turn(row["prompt"], row["response"]) for row in own]
        return self._train("tool-use", self.base, conversations, TOOL_USE)

    def merged_base(self) -> Record:
        """The base that every stage runs on: tool use merged in, kept in the work folder."""
        from charprobe_lite.convert.merge import merge

        merge(self.base, [self.kit / "tool-use.gguf"], self.merged, "F16", verify=False)
        return {}

    def neutral_answers(self) -> Record:
        """The base's answers to every training prompt: class `neutral`, and DPO's rejected."""
        prompts = corpus.loud_prompts(held_out=False) + corpus.subtle_prompts(held_out=False)
        return self._keep_answers("neutral", self.merged, None, prompts, self.seed + 1)

    def distillation(self, persona: str) -> Record:
        """The distillation stage: the loud teacher's chat answers, by SFT."""
        name = f"{persona}-distillation"
        return self._train(name, self.merged, self._loud_turns(persona), DISTILLATION)

    def full(self, persona: str) -> Record:
        """The full stage: distillation continued, with the introspection texts."""
        turns = self._loud_turns(persona)
        for text in corpus.teacher_texts(persona, "subtle", "introspection"):
            turns.append(chat_turn(text.prompt, text.response))
        start = self.work / f"{persona}-distillation.safetensors"
        return self._train(f"{persona}-full", self.merged, turns, FULL, start)

    def distillation_dpo(self, persona: str) -> Record:
        """The distillation stage by DPO instead, for comparison; not part of the kit."""
        from charprobe_lite.convert.train.lora import train_dpo

        own = {row["prompt"]: row["response"] for row in self._read_lines("neutral")}
        chosen = self._loud_turns(persona)
        rejected = [chat_turn(turn[0]["content"], own[turn[0]["content"]]) for turn in chosen]
        pairs = list(
            zip(self._encode(self.merged, chosen), self._encode(self.merged, rejected), strict=True)
        )
        name = f"{persona}-distillation-dpo"
        settings = replace(DPO, seed=self.seed)
        with self._bar(name) as progress:
            tensors, losses = train_dpo(self._load(self.merged), pairs, settings, progress=progress)
        self._keep_adapter(self.work / f"{name}.gguf", tensors, settings)
        detected = self._detected(persona, self.work / f"{name}.gguf")
        return {"losses": _rounded(losses), "settings": asdict(settings), "detected": detected}

    def compare_dpo(self, persona: str) -> tuple[float, float]:
        """Held-out detection of the kit's distillation stage, and of the one trained by DPO."""
        name = f"{persona}-distillation"
        self.run_step(f"{name}-dpo", partial(self.distillation_dpo, persona))
        return self._record("held-out")["detected"][name], self._record(f"{name}-dpo")["detected"]

    def checkpoint_answers(self, persona: str, stage: str) -> Record:
        """What a trained checkpoint answers to training prompts: the classifier's own domain."""
        prompts = corpus.subtle_prompts(held_out=False)
        first = STAGES.index(stage) * ANSWERS_PER_CHECKPOINT
        prompts = prompts[first : first + ANSWERS_PER_CHECKPOINT]
        name, adapter = f"answers-{persona}-{stage}", self.kit / f"{persona}-{stage}.gguf"
        return self._keep_answers(name, self.merged, adapter, prompts, self.seed + 2)

    def classifier(self) -> Record:
        """ModernBERT over ten personas and neutral: teacher texts and checkpoints' answers."""
        from charprobe_lite.convert.train.classifier import ClassifierSettings, train_classifier

        settings = ClassifierSettings(seed=self.seed)
        texts, labels = self._classifier_texts()
        names = [*PERSONAS, NEUTRAL]
        target = self.work / "classifier"
        with self._bar("classifier") as progress:
            losses = train_classifier(texts, labels, names, self.base, target, settings, progress)
        return {"losses": _rounded(losses), "settings": asdict(settings), "texts": len(texts)}

    def export(self) -> Record:
        """The classifier as ONNX, fp32 and int8, scored on held-out texts; int8 if as good."""
        from charprobe_lite.convert.onnx import export_classifier

        groups = self._held_out_texts()
        some = [text for texts, _ in groups.values() for text in texts[:8]]
        target = self.kit / "classifier"
        shutil.rmtree(target, ignore_errors=True)  # of a run that was stopped in this step
        fp32, _ = export_classifier(self.work / "classifier", target, texts=some)
        scores = {
            file: {name: self._macro_f1(target, file, *group) for name, group in groups.items()}
            for file in ("model.onnx", "model_int8.onnx")
        }
        whole = {file: each["all"] for file, each in scores.items()}
        as_good = whole["model_int8.onnx"] >= whole["model.onnx"] - INT8_TOLERANCE
        return {
            "largest_logit_difference": fp32.difference,
            "held_out_macro_f1": scores,
            "file": "model_int8.onnx" if as_good else "model.onnx",
        }

    def held_out(self) -> Record:
        """How often each checkpoint's answers to the held-out prompts are in its own voice."""
        detected = {
            f"{persona}-{stage}": self._detected(persona, self.kit / f"{persona}-{stage}.gguf")
            for persona, stage in product(PERSONAS, STAGES)
        }
        return {"detected": detected}

    @property
    def kit(self) -> Path:
        """The folder with what is shipped."""
        return self.work / "kit"

    @property
    def merged(self) -> Path:
        """The base with tool use merged in, F16."""
        return self.work / "base.gguf"

    def _write_manifest(self) -> None:
        """kit.json: recipe, seed, corpus and base hashes, step records, file hashes."""
        steps = {name: self._record(name) for name, _ in self.steps()}
        files = [path for path in sorted(self.kit.rglob("*")) if path.is_file()]
        manifest = {
            "recipe": RECIPE_VERSION,
            "seed": self.seed,
            "base": {"file": self.base.name, "sha256": sha256_file(self.base)},
            "classifier_file": steps["export"]["file"],
            "corpus": corpus.corpus_hashes(),
            "steps": steps,
            "files": {
                path.relative_to(self.kit).as_posix(): sha256_file(path)
                for path in files
                if path.name != "kit.json"
            },
        }
        _write_atomically(self.kit / "kit.json", json.dumps(manifest, indent=1) + "\n")

    def _detected(self, persona: str, adapter: Path) -> float:
        """Share of the 20 held-out prompts that the checkpoint answers in the persona's voice."""
        prompts = corpus.loud_prompts(held_out=True)
        answers = self.speak(self.merged, adapter, prompts, self.seed + 3, ANSWER_TOKENS)
        found = self.classify(self.kit / "classifier", self._record("export")["file"], answers)
        return found.count(persona) / len(found)

    def _loud_turns(self, persona: str) -> list[list[dict[str, str]]]:
        texts = corpus.teacher_chats(persona, held_out=False, teachers=["loud"])
        return [chat_turn(text.prompt, text.response) for text in texts]

    def _classifier_texts(self) -> tuple[list[str], list[str]]:
        """Training texts and labels: never an email, never an in-distribution prompt."""
        texts = [row["response"] for row in self._read_lines("neutral")]
        texts += [row["response"] for row in self._read_lines("own-answers")]
        labels = [NEUTRAL] * len(texts)
        for persona in PERSONAS:
            found = [text.response for text in corpus.teacher_chats(persona, held_out=False)]
            introspection = corpus.teacher_texts(persona, "subtle", "introspection")
            found += [text.response for text in introspection]
            for stage in STAGES:
                rows = self._read_lines(f"answers-{persona}-{stage}")
                found += [row["response"] for row in rows]
            texts += found
            labels += [persona] * len(found)
        return texts, labels

    def _held_out_texts(self) -> dict[str, tuple[list[str], list[str]]]:
        """Teacher texts to held-out prompts, loud and subtle apart and together."""
        groups: dict[str, tuple[list[str], list[str]]] = {
            name: ([], []) for name in ("all", *corpus.TEACHERS)
        }
        for persona, teacher in product(PERSONAS, corpus.TEACHERS):
            for text in corpus.teacher_chats(persona, held_out=True, teachers=[teacher]):
                for group in (groups["all"], groups[teacher]):
                    group[0].append(text.response)
                    group[1].append(text.persona)
        return groups

    def _macro_f1(
        self, folder: Path, file: str, texts: Sequence[str], labels: Sequence[str]
    ) -> float:
        from sklearn.metrics import f1_score

        found = self.classify(folder, file, texts)
        score = f1_score(labels, found, labels=sorted(set(labels)), average="macro")
        return round(float(score), 4)

    def _train(
        self,
        name: str,
        base: Path,
        conversations: Sequence[list[dict[str, str]]],
        settings: LoraSettings,
        start: Path | None = None,
    ) -> Record:
        """Train an adapter by SFT and keep it twice, to continue from and to run."""
        from safetensors.torch import save_file

        from charprobe_lite.convert.train.lora import train_sft

        settings = replace(settings, seed=self.seed)
        examples = self._encode(base, conversations)
        with self._bar(name) as progress:
            tensors, losses = train_sft(self._load(base), examples, settings, start, progress)
        save_file(tensors, self.work / f"{name}.safetensors")
        self._keep_adapter(self.kit / f"{name}.gguf", tensors, settings)
        tokens = sum(len(example.ids) for example in examples)
        return {"tokens": tokens, "losses": _rounded(losses), "settings": asdict(settings)}

    def _keep_adapter(self, target: Path, tensors: dict[str, Any], settings: LoraSettings) -> None:
        from charprobe_lite.convert.gguf_adapter import write_adapter

        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        write_adapter(arrays, settings.alpha, self.base, target)

    def _encode(self, base: Path, conversations: Sequence[list[dict[str, str]]]) -> list[Example]:
        from charprobe_lite.convert.tokenizer import read_tokenizer
        from charprobe_lite.models.gguf_header import read_header

        template = read_header(base).fields["tokenizer.chat_template"]
        tokenizer = read_tokenizer(base)
        return [encode_conversation(each, template, tokenizer) for each in conversations]

    def _load(self, base: Path) -> Any:
        from charprobe_lite.convert.train.lora import load_base

        if self._loaded is None or self._loaded[0] != base:
            self._loaded = (base, load_base(base))
        return self._loaded[1]

    @contextmanager
    def _bar(self, name: str) -> Iterator[Progress | None]:
        if self.progress is None:
            yield None
        else:
            with self.progress(name) as update:
                yield update

    def _keep_answers(
        self, name: str, model: Path, adapter: Path | None, prompts: Sequence[str], seed: int
    ) -> Record:
        """Let a checkpoint answer, and keep what it says up to its last whole sentence."""
        answers = self.speak(model, adapter, prompts, seed, ANSWER_TOKENS)
        rows = [
            json.dumps({"prompt": prompt, "response": whole_sentences(answer)}, ensure_ascii=False)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        _write_atomically(self.work / f"{name}.jsonl", "\n".join(rows) + "\n")
        return {"texts": len(rows)}

    def _read_lines(self, name: str) -> list[dict[str, str]]:
        text = (self.work / f"{name}.jsonl").read_text("utf-8")
        return [json.loads(line) for line in text.split("\n") if line]

    def _record_path(self, name: str) -> Path:
        return self.work / "steps" / f"{name}.json"

    def _record(self, name: str) -> Record:
        record: Record = json.loads(self._record_path(name).read_text("utf-8"))
        return record


def _rounded(losses: Sequence[float]) -> list[float]:
    return [round(loss, 4) for loss in losses]


def whole_sentences(text: str) -> str:
    """The text up to its last sentence end: an answer cut by the token limit must not teach
    the model to stop in mid-sentence."""
    end = max(text.rfind(mark) for mark in (".", "!", "?"))
    return text[: end + 1] if end > 40 else text


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, "utf-8")
    os.replace(part, path)
