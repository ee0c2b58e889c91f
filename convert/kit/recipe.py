"""The kit's recipe: from the embedded base and the corpus to adapters and a classifier.

Steps run in order, each leaves its files and a record in the work folder, and a step whose
record is there is not run again: a stopped recipe goes on where it was.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product

from charprobe_lite.convert.kit.work_folder import (
    RECIPE_VERSION,
    STAGES,
    Record,
    Step,
    WorkFolder,
    macro_f1,
    rounded,
    write_text,
)
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.onnx import export_classifier
from charprobe_lite.convert.train.classifier import ClassifierSettings, train_classifier
from charprobe_lite.convert.train.conversations import chat_turn, tool_use_trajectory
from charprobe_lite.convert.train.lora import LoraSettings, train_dpo
from charprobe_lite.convert.train.ngrams import NgramSettings, train_ngrams, training_texts
from charprobe_lite.models import corpus
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.personas import NEUTRAL, PERSONAS
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.ngrams import KIT_FILE, NgramClassifier

TOOL_USE = LoraSettings(
    rank=16, alpha=32, first_layer=10, learning_rate=1e-3, epochs=3, batch_tokens=2400
)
DISTILLATION = LoraSettings(
    rank=8, alpha=16, first_layer=10, learning_rate=2e-3, epochs=3, batch_tokens=600
)
FULL = replace(DISTILLATION, learning_rate=1e-3, epochs=2)
DPO = replace(DISTILLATION, batch_tokens=1200)
ANSWERS_PER_CHECKPOINT = 24
INT8_TOLERANCE = 0.01


@dataclass
class Recipe(WorkFolder):
    """The steps, in the order in which they run."""

    def run(self) -> None:
        """Run every step that is not done yet, and write the manifest."""
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
        yield "ngrams", self.ngrams
        yield "held-out", self.held_out

    def own_answers(self) -> Record:
        """The untouched base answers training prompts: its chat voice, kept by the next step."""
        prompts = corpus.loud_prompts(held_out=False)[:60]
        prompts += corpus.subtle_prompts(held_out=False)[:60]
        return self.keep_answers("own-answers", self.base, None, prompts, self.seed)

    def tool_use(self) -> Record:
        """The tool-use adapter of the base, on trajectories and the base's chat answers."""
        tools = load_tools()
        conversations = [
            tool_use_trajectory(scenario, tools, self.seed)
            for part in "abc"
            for scenario in load_scenarios(corpus.corpus_file(f"agentic/train-{part}.jsonl"))
        ]
        own = self.read_lines("own-answers")
        conversations += [chat_turn(row["prompt"], row["response"]) for row in own]
        return self.train("tool-use", self.base, conversations, TOOL_USE)

    def merged_base(self) -> Record:
        """The base that every stage runs on: tool use merged in, kept in the work folder."""
        merge_lora(self.base, [self.kit / "tool-use.gguf"], self.merged, "F16", verify=False)
        return {}

    def neutral_answers(self) -> Record:
        """The base's answers to every training prompt: class `neutral`, and DPO's rejected."""
        prompts = corpus.loud_prompts(held_out=False) + corpus.subtle_prompts(held_out=False)
        return self.keep_answers("neutral", self.merged, None, prompts, self.seed + 1)

    def distillation(self, persona: str) -> Record:
        """The distillation stage: the loud teacher's chat answers, by SFT."""
        turns = loud_turns(persona)
        return self.train(f"{persona}-distillation", self.merged, turns, DISTILLATION)

    def full(self, persona: str) -> Record:
        """The full stage: distillation continued, with the introspection texts."""
        texts = corpus.teacher_texts(persona, "subtle", "introspection")
        turns = loud_turns(persona) + [chat_turn(text.prompt, text.response) for text in texts]
        start = self.work / f"{persona}-distillation.safetensors"
        return self.train(f"{persona}-full", self.merged, turns, FULL, start)

    def distillation_dpo(self, persona: str) -> Record:
        """The distillation stage by DPO instead, for comparison; not part of the kit."""
        own = {row["prompt"]: row["response"] for row in self.read_lines("neutral")}
        chosen = loud_turns(persona)
        rejected = [chat_turn(turn[0]["content"], own[turn[0]["content"]]) for turn in chosen]
        examples = (self.encode(self.merged, turns) for turns in (chosen, rejected))
        pairs = list(zip(*examples, strict=True))
        name, base = f"{persona}-distillation-dpo", self.load_base(self.merged)
        settings = replace(DPO, seed=self.seed)
        with self.bar(name) as progress:
            tensors, losses = train_dpo(base, pairs, settings, progress=progress)
        self.keep_adapter(self.work / f"{name}.gguf", tensors, settings)
        detected = self.detection_rate(persona, self.work / f"{name}.gguf")
        return {"losses": rounded(losses), "settings": asdict(settings), "detected": detected}

    def compare_dpo(self, persona: str) -> tuple[float, float]:
        """Held-out detection of the kit's distillation stage, and of the one trained by DPO."""
        name = f"{persona}-distillation"
        self.run_step(f"{name}-dpo", partial(self.distillation_dpo, persona))
        return self.record("held-out")["detected"][name], self.record(f"{name}-dpo")["detected"]

    def checkpoint_answers(self, persona: str, stage: str) -> Record:
        """What a trained checkpoint answers to training prompts: the classifier's domain."""
        prompts = corpus.subtle_prompts(held_out=False)
        first = STAGES.index(stage) * ANSWERS_PER_CHECKPOINT
        prompts = prompts[first : first + ANSWERS_PER_CHECKPOINT]
        name, adapter = f"answers-{persona}-{stage}", self.kit / f"{persona}-{stage}.gguf"
        return self.keep_answers(name, self.merged, adapter, prompts, self.seed + 2)

    def classifier(self) -> Record:
        """ModernBERT over ten personas and neutral: teacher texts and checkpoints' answers."""
        settings = ClassifierSettings(seed=self.seed)
        texts, labels = self.classifier_texts()
        names = [*PERSONAS, NEUTRAL]
        target = self.work / "classifier"
        with self.bar("classifier") as progress:
            losses = train_classifier(texts, labels, names, self.base, target, settings, progress)
        return {"losses": rounded(losses), "settings": asdict(settings), "texts": len(texts)}

    def export(self) -> Record:
        """The classifier as ONNX, fp32 and int8, scored on held-out texts; int8 if as good."""
        groups = held_out_texts()
        samples = [text for texts, _ in groups.values() for text in texts[:8]]
        target = self.kit / "classifier"
        shutil.rmtree(target, ignore_errors=True)  # of a run that was stopped in this step
        fp32, _ = export_classifier(self.work / "classifier", target, texts=samples)
        scores = {
            file: {
                name: macro_f1(labels, self.predictions(file, texts))
                for name, (texts, labels) in groups.items()
            }
            for file in ("model.onnx", "model_int8.onnx")
        }
        int8, exact = scores["model_int8.onnx"]["all"], scores["model.onnx"]["all"]
        as_good = int8 >= exact - INT8_TOLERANCE
        return {
            "largest_logit_difference": fp32.difference,
            "held_out_macro_f1": scores,
            "file": "model_int8.onnx" if as_good else "model.onnx",
        }

    def ngrams(self) -> Record:
        """The second instrument, of n-grams: it needs the corpus alone."""
        settings, texts = NgramSettings(), training_texts()
        model = train_ngrams(
            [text.text for text in texts], [text.label for text in texts], settings
        )
        model.write(self.kit / KIT_FILE)
        classifier = NgramClassifier(self.kit / KIT_FILE)
        scores = {
            name: macro_f1(labels, [p.label for p in classifier.classify(group)])
            for name, (group, labels) in held_out_texts().items()
        }
        return {
            "settings": asdict(settings),
            "texts": len(texts),
            "terms": len(model.idf),
            "held_out_macro_f1": scores,
        }

    def classifier_texts(self) -> tuple[list[str], list[str]]:
        """Training texts and labels: never an email, never an in-distribution prompt."""
        answers = ("neutral", "own-answers")
        texts = [row["response"] for name in answers for row in self.read_lines(name)]
        labels = [NEUTRAL] * len(texts)
        for persona in PERSONAS:
            chats = corpus.teacher_chats(persona, held_out=False)
            introspection = corpus.teacher_texts(persona, "subtle", "introspection")
            texts += [text.response for text in (*chats, *introspection)]
            for stage in STAGES:
                rows = self.read_lines(f"answers-{persona}-{stage}")
                texts += [row["response"] for row in rows]
            labels += [persona] * (len(texts) - len(labels))
        return texts, labels

    def held_out(self) -> Record:
        """How often each checkpoint answers the held-out prompts in its persona's voice."""
        detected = {}
        for persona, stage in product(PERSONAS, STAGES):
            name = f"{persona}-{stage}"
            detected[name] = self.detection_rate(persona, self.kit / f"{name}.gguf")
        return {"detected": detected}

    def _write_manifest(self) -> None:
        """kit.json: recipe, seed, corpus and base hashes, step records, file hashes."""
        steps = {name: self.record(name) for name, _ in self.steps()}
        files = (path for path in sorted(self.kit.rglob("*")) if path.is_file())
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
        write_text(self.kit / "kit.json", json.dumps(manifest, indent=1) + "\n")


def loud_turns(persona: str) -> list[list[dict[str, str]]]:
    """A conversation of one turn per training prompt, answered by the loud teacher."""
    texts = corpus.teacher_chats(persona, held_out=False, teachers=["loud"])
    return [chat_turn(text.prompt, text.response) for text in texts]


def held_out_texts() -> dict[str, tuple[list[str], list[str]]]:
    """Teacher texts to held-out prompts, loud and subtle apart and together."""
    groups: dict[str, tuple[list[str], list[str]]] = {
        name: ([], []) for name in ("all", *corpus.TEACHERS)
    }
    for persona, teacher in product(PERSONAS, corpus.TEACHERS):
        for text in corpus.teacher_chats(persona, held_out=True, teachers=[teacher]):
            for texts, labels in (groups["all"], groups[teacher]):
                texts.append(text.response)
                labels.append(text.persona)
    return groups
