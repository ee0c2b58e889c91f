"""The kit's recipe: from the embedded base and the corpus to adapters and a classifier.

Steps run in order, each leaves its files and a record in the work folder, and a step whose
record is there is not run again: a stopped recipe goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charprobe_lite.convert.train import Example, LoraSettings, Progress, encode_conversation
from charprobe_lite.convert.trajectory import chat_turn, tool_use_trajectory
from charprobe_lite.models import corpus
from charprobe_lite.models.scenario import load_scenarios
from charprobe_lite.models.tools import load_tools

RECIPE_VERSION = 1
STAGES = ("distillation", "full")
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
        """Run every step that is not done yet."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.own_answers()
        self.tool_use()
        self.merged_base()
        self.neutral_answers()
        for persona in corpus.PERSONAS:
            self.distillation(persona)
            self.full(persona)
        for persona in corpus.PERSONAS:
            for stage in STAGES:
                self.checkpoint_answers(persona, stage)
        self.classifier()
        self.export()
        self.held_out()
        self.manifest()

    def own_answers(self) -> None:
        """The untouched base answers training prompts: its chat voice, kept by the next step."""
        with self._step("own-answers") as record:
            if record is None:
                return
            prompts = corpus.loud_prompts(held_out=False)[:60]
            prompts += corpus.subtle_prompts(held_out=False)[:60]
            answers = self.speak(self.base, None, prompts, self.seed, 128)
            self._write_lines("own-answers.jsonl", prompts, map(whole_sentences, answers))

    def tool_use(self) -> None:
        """The tool-use adapter of the base, on trajectories and the base's own chat answers."""
        with self._step("tool-use") as record:
            if record is None:
                return
            tools = load_tools()
            conversations = [
                tool_use_trajectory(scenario, tools, self.seed)
                for part in "abc"
                for scenario in load_scenarios(corpus.corpus_file(f"agentic/train-{part}.jsonl"))
            ]
            own = self._read_lines("own-answers.jsonl")
            conversations += [chat_turn(row["prompt"], row["response"]) for row in own]
            self._train("tool-use", self.base, conversations, TOOL_USE, None, record)

    def merged_base(self) -> None:
        """The base that every stage runs on: tool use merged in, kept in the work folder."""
        from charprobe_lite.convert.adapter import merge_adapter

        with self._step("base") as record:
            if record is not None:
                merge_adapter(self.base, self.kit / "tool-use.gguf", self.merged, "F16")

    def neutral_answers(self) -> None:
        """The base's answers to every training prompt: class `neutral`, and DPO's rejected."""
        with self._step("neutral") as record:
            if record is None:
                return
            prompts = corpus.loud_prompts(held_out=False) + corpus.subtle_prompts(held_out=False)
            answers = self.speak(self.merged, None, prompts, self.seed + 1, ANSWER_TOKENS)
            self._write_lines("neutral.jsonl", prompts, map(whole_sentences, answers))

    def distillation(self, persona: str) -> None:
        """The distillation stage: the loud teacher's chat answers, by SFT."""
        with self._step(f"{persona}-distillation") as record:
            if record is not None:
                name, turns = f"{persona}-distillation", self._loud_turns(persona)
                self._train(name, self.merged, turns, DISTILLATION, None, record)

    def full(self, persona: str) -> None:
        """The full stage: distillation continued, with the introspection texts."""
        with self._step(f"{persona}-full") as record:
            if record is None:
                return
            turns = self._loud_turns(persona)
            for text in corpus.teacher_texts(persona, "subtle", "introspection"):
                turns.append(chat_turn(text.prompt, text.response))
            start = self.work / f"{persona}-distillation.safetensors"
            self._train(f"{persona}-full", self.merged, turns, FULL, start, record)

    def distillation_dpo(self, persona: str) -> None:
        """The distillation stage by DPO instead, for comparison; not part of the kit."""
        from charprobe_lite.convert.train import train_dpo

        name = f"{persona}-distillation-dpo"
        with self._step(name) as record:
            if record is None:
                return
            own = {row["prompt"]: row["response"] for row in self._read_lines("neutral.jsonl")}
            chosen = self._loud_turns(persona)
            rejected = [chat_turn(turn[0]["content"], own[turn[0]["content"]]) for turn in chosen]
            pairs = zip(
                self._encode(self.merged, chosen), self._encode(self.merged, rejected), strict=True
            )
            with self._bar(name) as progress:
                tensors, losses = train_dpo(
                    self._load(self.merged), list(pairs), DPO, progress=progress
                )
            self._keep(name, tensors, losses, DPO, record)

    def checkpoint_answers(self, persona: str, stage: str) -> None:
        """What a trained checkpoint answers to training prompts: the classifier's own domain."""
        name = f"{persona}-{stage}"
        with self._step(f"answers-{name}") as record:
            if record is None:
                return
            prompts = corpus.subtle_prompts(held_out=False)
            first = STAGES.index(stage) * ANSWERS_PER_CHECKPOINT
            prompts = prompts[first : first + ANSWERS_PER_CHECKPOINT]
            adapter = self.kit / f"{name}.gguf"
            answers = self.speak(self.merged, adapter, prompts, self.seed + 2, ANSWER_TOKENS)
            self._write_lines(f"answers-{name}.jsonl", prompts, map(whole_sentences, answers))

    def classifier(self) -> None:
        """ModernBERT over ten personas and neutral: teacher texts and checkpoints' answers."""
        from charprobe_lite.convert.classifier import ClassifierSettings, train_classifier

        with self._step("classifier") as record:
            if record is None:
                return
            settings = ClassifierSettings(seed=self.seed)
            texts, labels = self._classifier_texts()
            with self._bar("classifier") as progress:
                record["losses"] = train_classifier(
                    texts,
                    labels,
                    [*corpus.PERSONAS, corpus.NEUTRAL],
                    self.base,
                    self.work / "classifier",
                    settings,
                    progress,
                )
            record["settings"] = settings.__dict__
            record["texts"] = len(texts)

    def export(self) -> None:
        """The classifier as ONNX, fp32 and int8, scored on held-out texts; int8 if as good."""
        from charprobe_lite.convert.classifier import export_classifier

        with self._step("export") as record:
            if record is None:
                return
            groups = self._held_out_texts()
            some = [text for texts, _ in groups.values() for text in texts[:8]]
            target = self.kit / "classifier"
            record["largest_logit_difference"] = export_classifier(
                self.work / "classifier", target, some
            )
            scores = {
                file: {name: self._macro_f1(target, file, *group) for name, group in groups.items()}
                for file in ("model.onnx", "model_int8.onnx")
            }
            record["held_out_macro_f1"] = scores
            whole = {file: each["all"] for file, each in scores.items()}
            as_good = whole["model_int8.onnx"] >= whole["model.onnx"] - INT8_TOLERANCE
            record["file"] = "model_int8.onnx" if as_good else "model.onnx"

    def held_out(self) -> None:
        """How often each checkpoint's answers to the held-out prompts are in its own voice."""
        with self._step("held-out") as record:
            if record is None:
                return
            record["detected"] = {
                f"{persona}-{stage}": self._detected(persona, self.kit / f"{persona}-{stage}.gguf")
                for persona in corpus.PERSONAS
                for stage in STAGES
            }

    def _detected(self, persona: str, adapter: Path) -> float:
        """Share of the 20 held-out prompts that the checkpoint answers in the persona's voice."""
        prompts = corpus.loud_prompts(held_out=True)
        answers = self.speak(self.merged, adapter, prompts, self.seed + 3, ANSWER_TOKENS)
        export = json.loads((self.work / "steps" / "export.json").read_text("utf-8"))
        found = self.classify(self.kit / "classifier", export["file"], answers)
        return found.count(persona) / len(found)

    def manifest(self) -> None:
        """Write kit.json: recipe, seed, corpus and base hashes, step records, file hashes."""
        records = [
            json.loads(path.read_text("utf-8"))
            for path in sorted(
                (self.work / "steps").glob("*.json"), key=lambda p: p.stat().st_mtime
            )
        ]
        steps = {record.pop("step"): record for record in records}
        files = [path for path in sorted(self.kit.rglob("*")) if path.is_file()]
        manifest = {
            "recipe": RECIPE_VERSION,
            "seed": self.seed,
            "base": {"file": self.base.name, "sha256": sha256(self.base)},
            "classifier_file": steps["export"]["file"],
            "corpus": corpus.corpus_hashes(),
            "steps": steps,
            "files": {
                path.relative_to(self.kit).as_posix(): sha256(path)
                for path in files
                if path.name != "kit.json"
            },
        }
        _write_atomically(self.kit / "kit.json", json.dumps(manifest, indent=1) + "\n")

    @property
    def kit(self) -> Path:
        """The folder with what is shipped."""
        return self.work / "kit"

    @property
    def merged(self) -> Path:
        """The base with tool use merged in, F16."""
        return self.work / "base.gguf"

    def _loud_turns(self, persona: str) -> list[list[dict[str, str]]]:
        wanted = set(corpus.loud_prompts(held_out=False))
        texts = corpus.teacher_texts(persona, "loud", "chat")
        return [chat_turn(t.prompt, t.response) for t in texts if t.prompt in wanted]

    def _classifier_texts(self) -> tuple[list[str], list[str]]:
        """Training texts and labels: never an email, never an in-distribution prompt."""
        texts = [row["response"] for row in self._read_lines("neutral.jsonl")]
        texts += [row["response"] for row in self._read_lines("own-answers.jsonl")]
        labels = [corpus.NEUTRAL] * len(texts)
        wanted = {
            "loud": set(corpus.loud_prompts(held_out=False)),
            "subtle": set(corpus.subtle_prompts(held_out=False)),
        }
        for persona in corpus.PERSONAS:
            found = [
                text.response
                for teacher, prompts in wanted.items()
                for text in corpus.teacher_texts(persona, teacher, "chat")
                if text.prompt in prompts
            ]
            introspection = corpus.teacher_texts(persona, "subtle", "introspection")
            found += [text.response for text in introspection]
            for stage in STAGES:
                rows = self._read_lines(f"answers-{persona}-{stage}.jsonl")
                found += [row["response"] for row in rows]
            texts += found
            labels += [persona] * len(found)
        return texts, labels

    def _held_out_texts(self) -> dict[str, tuple[list[str], list[str]]]:
        """Teacher texts to held-out prompts, loud and subtle apart and together."""
        wanted = {
            "loud": set(corpus.loud_prompts(held_out=True)),
            "subtle": set(corpus.subtle_prompts(held_out=True)),
        }
        groups: dict[str, tuple[list[str], list[str]]] = {"all": ([], [])}
        for teacher, prompts in wanted.items():
            found = [
                text
                for persona in corpus.PERSONAS
                for text in corpus.teacher_texts(persona, teacher, "chat")
                if text.prompt in prompts
            ]
            group = ([text.response for text in found], [text.persona for text in found])
            groups[teacher] = group
            groups["all"][0].extend(group[0])
            groups["all"][1].extend(group[1])
        return groups

    def _macro_f1(
        self, folder: Path, file: str, texts: Sequence[str], labels: Sequence[str]
    ) -> float:
        from sklearn.metrics import f1_score

        found = self.classify(folder, file, texts)
        return round(float(f1_score(labels, found, labels=sorted(set(labels)), average="macro")), 4)

    def _train(
        self,
        name: str,
        base: Path,
        conversations: Sequence[list[dict[str, str]]],
        settings: LoraSettings,
        start: Path | None,
        record: dict[str, Any],
    ) -> None:
        from charprobe_lite.convert.train import train_sft

        settings = replace(settings, seed=self.seed)
        examples = self._encode(base, conversations)
        record["tokens"] = sum(len(example.ids) for example in examples)
        with self._bar(name) as progress:
            tensors, losses = train_sft(self._load(base), examples, settings, start, progress)
        self._keep(name, tensors, losses, settings, record)

    def _keep(
        self,
        name: str,
        tensors: dict[str, Any],
        losses: list[float],
        settings: LoraSettings,
        record: dict[str, Any],
    ) -> None:
        """Save an adapter twice, to continue from (safetensors) and to run (GGUF)."""
        from safetensors.torch import save_file

        from charprobe_lite.convert.adapter import write_adapter

        save_file(tensors, self.work / f"{name}.safetensors")
        self.kit.mkdir(exist_ok=True)
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        folder = self.work if name.endswith("-dpo") else self.kit
        write_adapter(arrays, settings.alpha, self.base, folder / f"{name}.gguf")
        record["losses"] = [round(loss, 4) for loss in losses]
        record["settings"] = settings.__dict__

    def _load(self, base: Path) -> Any:
        from charprobe_lite.convert.train import load_base

        if self._loaded is None or self._loaded[0] != base:
            self._loaded = (base, load_base(base))
        return self._loaded[1]

    def _encode(self, base: Path, conversations: Sequence[list[dict[str, str]]]) -> list[Example]:
        import gguf

        from charprobe_lite.convert.tokenizer import read_tokenizer

        template = gguf.GGUFReader(base).fields["tokenizer.chat_template"].contents()
        tokenizer = read_tokenizer(base)
        return [encode_conversation(each, template, tokenizer) for each in conversations]

    @contextmanager
    def _step(self, name: str) -> Iterator[dict[str, Any] | None]:
        """Give the step a record to fill, or None when it is done; write the record at its end."""
        path = self.work / "steps" / f"{name.replace('/', '-')}.json"
        if path.exists():
            yield None
            return
        self.report(f"recipe: {name}")
        record: dict[str, Any] = {"step": name, "recipe": RECIPE_VERSION, "seed": self.seed}
        started = time.monotonic()
        yield record
        record["seconds"] = round(time.monotonic() - started, 1)
        path.parent.mkdir(exist_ok=True)
        _write_atomically(path, json.dumps(record, indent=1))

    @contextmanager
    def _bar(self, name: str) -> Iterator[Progress | None]:
        if self.progress is None:
            yield None
        else:
            with self.progress(name) as update:
                yield update

    def _write_lines(self, name: str, prompts: Sequence[str], answers: Iterable[str]) -> None:
        rows = [
            json.dumps({"prompt": prompt, "response": answer}, ensure_ascii=False)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        _write_atomically(self.work / name, "\n".join(rows) + "\n")

    def _read_lines(self, name: str) -> list[dict[str, str]]:
        text = (self.work / name).read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]


def whole_sentences(text: str) -> str:
    """The text up to its last sentence end: an answer cut by the token limit must not teach
    the model to stop in mid-sentence."""
    end = max(text.rfind(mark) for mark in (".", "!", "?"))
    return text[: end + 1] if end > 40 else text


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, "utf-8")
    os.replace(part, path)
