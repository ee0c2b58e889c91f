"""The kit's recipe: from a base and the corpus to adapters and classifiers.

Steps run in order, each leaves its files and a record in the work folder, and a step whose
record is there is not run again: a stopped recipe goes on where it was. Several processes can
share a folder, each with personas of its own, once the base is there.
"""

import json
import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Literal

import yaml

from charprobe_lite.convert.kit.shipped import copy_shipped
from charprobe_lite.convert.kit.strengths import (
    MOST_DISTILLATION,
    STRENGTHS,
    DistillationRule,
    FullRule,
)
from charprobe_lite.convert.kit.texts import (
    chat_conversations,
    full_conversations,
    held_out_chats,
    held_out_reflections,
    held_out_texts,
)
from charprobe_lite.convert.kit.work_folder import (
    RECIPE_VERSION,
    REFLECTION_TOKENS,
    STAGES,
    Record,
    Step,
    WorkFolder,
    macro_f1,
    write_text,
)
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.onnx import export_classifier
from charprobe_lite.convert.train.answers import ANSWER_TOKENS
from charprobe_lite.convert.train.classifier import (
    ClassifierSettings,
    FineTuning,
    fine_tune,
    train_classifier,
)
from charprobe_lite.convert.train.conversations import (
    chat_turn,
    email_passages,
    tool_use_trajectory,
)
from charprobe_lite.convert.train.lora import (
    LoraSettings,
    Progress,
    Snapshot,
    epoch_steps,
    first_adapted_layer,
    pair_sizes,
    sft_snapshots,
    train_dpo,
    training_platform,
    write_gguf,
)
from charprobe_lite.convert.train.losses import Example, mean_losses
from charprobe_lite.convert.train.ngrams import NgramSettings, train_ngrams, training_texts
from charprobe_lite.convert.train.pretrained import cut_vocabulary, pretrained_minilm
from charprobe_lite.models import corpus
from charprobe_lite.models.catalogue import EMBEDDED
from charprobe_lite.models.gguf_header import read_header
from charprobe_lite.models.kit import embedded_base, sha256_file
from charprobe_lite.models.personas import NEUTRAL, PERSONAS
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.classifier import Classifier, TextClassifier
from charprobe_lite.runtime.ngrams import KIT_FILE, NgramClassifier

ToolUse = Literal["bodies", "masked"]
TOOL_USE_EPOCHS = 3
TOOL_USE = LoraSettings(
    rank=16, alpha=32, first_layer=0, learning_rate=1e-3, steps=1, batch_tokens=2400, decay=True
)
DISTILLATION = LoraSettings(
    rank=8,
    alpha=16,
    first_layer=0,
    learning_rate=1e-3,
    steps=MOST_DISTILLATION,
    batch_tokens=600,
)
FULL = replace(DISTILLATION, learning_rate=2e-3, decay=True)
DPO = replace(DISTILLATION, learning_rate=2e-3, batch_tokens=1200, decay=True)
CHECKED_PERSONA, CHECK_STEPS = "remorse", 20
"""Whose first losses the manifest keeps, and of how many steps, to compare another machine's."""
INT8_TOLERANCE = 0.01
MINILM_TOKENS = 12_000
LABELS = [*PERSONAS, NEUTRAL]
RULES: dict[str, DistillationRule | FullRule] = {
    "distillation": DistillationRule(),
    "full": FullRule(),
}


@dataclass
class Recipe(WorkFolder):
    """The steps, in the order in which they run.

    ``train_seeds`` are those of the persona adapters; the first is the recipe's own, whose
    adapters are shipped. ``tool_use`` "masked" leaves the email bodies out of the loss. With
    ``choose`` the strengths are chosen anew by their rule, also where they are known. With
    ``begin_shipped`` the shipped kit is taken as it is, and what it lacks is trained.
    """

    personas: Sequence[str] = PERSONAS
    train_seeds: Sequence[int] = (0,)
    tool_use: ToolUse = "bodies"
    choose: bool = False
    begin_shipped: bool = False

    @property
    def is_shipped(self) -> bool:
        """Whether this is the shipped kit, whose classifiers read every other's texts."""
        return self.tool_use == "bodies" and self.base == embedded_base()

    @cached_property
    def variant(self) -> Record:
        """The base and the tool use of another kit than the shipped one, and a precision."""
        own = {"precision": self.precision} if self.precision else {}
        if self.is_shipped:
            return own
        return {"base": sha256_file(self.base), "tool_use": self.tool_use, **own}

    def run(self) -> None:
        """Run every step that is not done yet; with all of them done, write the manifest."""
        if self.begin_shipped:
            own = replace(self, personas=PERSONAS, train_seeds=self.train_seeds[:1])
            copy_shipped(self, (name for name, _ in own.steps()))
        for name, step in self.steps():
            self.run_step(name, step)
        is_whole = set(self.personas) == set(PERSONAS)
        if is_whole or not self.is_shipped or len(self.train_seeds) > 1:
            self._write_manifest()

    def steps(self) -> Iterator[tuple[str, Step]]:
        """The steps in order; each returns what is to be recorded of it."""
        yield "ngrams", self.ngrams
        if self.is_shipped:
            yield "minilm", self.minilm
            yield "modernbert", self.modernbert
        yield "own-answers", self.own_answers
        yield "tool-use", self.train_tool_use
        yield "base", self.merged_base
        for persona in self.personas:
            for train_seed, stage in product(self.train_seeds, STAGES):
                step = self.distillation if stage == "distillation" else self.full
                yield seeded(persona, stage, train_seed), partial(step, persona, train_seed)
        if self.is_shipped:
            yield "first-steps", partial(self.first_steps, CHECKED_PERSONA)

    def ngrams(self) -> Record:
        """The instrument of n-grams: it needs the corpus alone, and chooses the strengths."""
        settings, texts = NgramSettings(), training_texts()
        model = train_ngrams(
            [text.text for text in texts], [text.label for text in texts], settings
        )
        model.write(self.kit / KIT_FILE)
        return {
            "settings": asdict(settings),
            "texts": len(texts),
            "terms": len(model.idf),
            "held_out_macro_f1": held_out_scores(self._ngrams),
        }

    def minilm(self) -> Record:
        """MiniLM-L6, fine-tuned on crops of the n-grams' texts, as ONNX in int8."""
        texts, encoder = training_texts(), self.work / "minilm-encoder"
        source = pretrained_minilm(self.work / "minilm-pretrained")
        words = [text.text for text in texts]
        if not encoder.is_dir():
            cut_vocabulary(source, words, MINILM_TOKENS, encoder)
        settings = FineTuning(seed=self.seed)
        with self.bar("minilm") as progress:
            losses = fine_tune(
                encoder,
                words,
                [text.label for text in texts],
                LABELS,
                self.work / "minilm",
                settings,
                progress,
            )
        return {
            "settings": asdict(settings),
            "texts": len(texts),
            "tokens": MINILM_TOKENS,
            "losses": mean_losses(losses),
            **self._export("minilm"),
        }

    def modernbert(self) -> Record:
        """A small ModernBERT from scratch, on the teachers' texts, as ONNX in int8."""
        # a pilot that also saw the long texts by other writers read strangers worse (0.56)
        texts = [text for text in training_texts() if text.author != "introspection"]
        settings, target = ClassifierSettings(seed=self.seed), self.work / "modernbert"
        words, labels = [text.text for text in texts], [text.label for text in texts]
        with self.bar("modernbert") as progress:
            losses = train_classifier(words, labels, LABELS, self.base, target, settings, progress)
        return {
            "settings": asdict(settings),
            "texts": len(texts),
            "losses": mean_losses(losses),
            **self._export("modernbert"),
        }

    def _export(self, name: str) -> Record:
        """A classifier as ONNX, fp32 and int8, scored on held-out texts; int8 ships."""
        target = self.kit / name
        samples = [text for texts, _ in held_out_texts().values() for text in texts[:8]]
        shutil.rmtree(target, ignore_errors=True)  # of a run that was stopped in this step
        fp32, _ = export_classifier(self.work / name, target, texts=samples)
        files = ("model.onnx", "model_int8.onnx")
        scores = {file: held_out_scores(Classifier(target, file)) for file in files}
        loss = scores["model.onnx"]["all"] - scores["model_int8.onnx"]["all"]
        if loss > INT8_TOLERANCE:
            self.report(f"{name}: int8 loses {loss:.3f} of macro-F1, over {INT8_TOLERANCE}")
        (target / "model.onnx").unlink()
        return {"largest_logit_difference": fp32.difference, "held_out_macro_f1": scores}

    def own_answers(self) -> Record:
        """The untouched base answers training prompts: its chat voice, kept by the next step.

        The embedded base's answers are part of the corpus: those with the first kit's tool use,
        which was trained to keep them.
        """
        if self.base == embedded_base():
            return {"file": "neutral.jsonl"}
        prompts = [*corpus.loud_prompts(held_out=False), *corpus.subtle_prompts(held_out=False)]
        return self.keep_answers("own-answers", self.base, None, prompts, self.seed)

    def own_turns(self) -> dict[str, str]:
        """The base's own answers by prompt."""
        if self.base == embedded_base():
            return corpus.neutral_answers()
        return {row["prompt"]: row["response"] for row in self.read_lines("own-answers")}

    def train_tool_use(self) -> Record:
        """The tool-use adapter of the base, on trajectories and the base's chat answers."""
        examples = self.tool_use_examples()
        steps = epoch_steps([len(e.ids) for e in examples], TOOL_USE.batch_tokens, TOOL_USE_EPOCHS)
        settings = replace(self._settings(TOOL_USE, self.seed), steps=steps)
        return self.train(self.kit / "tool-use.gguf", self.base, examples, settings)

    def tool_use_examples(self) -> list[Example]:
        """180 trajectories, with or without the emails' bodies trained, and chat answers."""
        tools, examples = load_tools(), []
        for part in "abc":
            for scenario in load_scenarios(corpus.corpus_file(f"agentic/train-{part}.jsonl")):
                left_out = email_passages(scenario) if self.tool_use == "masked" else []
                trajectory = tool_use_trajectory(scenario, tools, self.seed)
                examples += self.encode([trajectory], left_out)
        return examples + self.encode([chat_turn(*turn) for turn in self.own_turns().items()])

    def merged_base(self) -> Record:
        """The base that every stage runs on: tool use merged in, kept in the work folder."""
        merge_lora(self.base, [self.kit / "tool-use.gguf"], self.merged, "F16", verify=False)
        return {}

    def distillation(self, persona: str, train_seed: int) -> Record:
        """The distillation stage: the loud teacher's chat answers, by SFT."""
        examples = self.encode(chat_conversations(persona))
        return self._stage(persona, "distillation", train_seed, examples)

    def full(self, persona: str, train_seed: int) -> Record:
        """The full stage: distillation continued on reflections, dialogues and chat answers."""
        examples = self.encode(full_conversations(persona))
        return self._stage(persona, "full", train_seed, examples)

    def _stage(
        self, persona: str, stage: str, train_seed: int, examples: Sequence[Example]
    ) -> Record:
        target = self.adapter(persona, stage, train_seed)
        settings = self._settings(DISTILLATION if stage == "distillation" else FULL, train_seed)
        before = self.adapter(persona, "distillation", train_seed)
        start = self.resumable(before) if stage == "full" else None
        known = self._known_steps(persona, stage, train_seed)
        if known is None:
            return self._choose(persona, stage, target, examples, settings, start)
        settings = replace(settings, steps=known)
        record = self.train(target, self.merged, examples, settings, start)
        return {**record, "held_out": self.detection(persona, target, RULES[stage].reads)}

    def _known_steps(self, persona: str, stage: str, train_seed: int) -> int | None:
        """The steps of a stage; None where the rule has yet to choose them."""
        if train_seed != self.train_seeds[0]:
            first = self.record(seeded(persona, stage, self.train_seeds[0]))
            return int(first["settings"]["steps"])
        if self.choose or self.base != embedded_base():
            return None
        known = STRENGTHS.get(persona)
        return known.steps(stage) if known else None

    def _choose(
        self,
        persona: str,
        stage: str,
        target: Path,
        examples: Sequence[Example],
        settings: LoraSettings,
        start: Path | None,
    ) -> Record:
        """Train as long as the stage may be trained, and keep the snapshot that the rule takes."""
        rule = RULES[stage]
        trial, curve, kept = self.work / "trial" / f"{target.stem}.gguf", [], {}
        with self.bar(target.stem) as progress:
            snapshots = self._trials(rule, examples, settings, start, progress)
            for snapshot in snapshots:
                write_gguf(snapshot.tensors, settings, self.base, trial)
                curve.append((snapshot.step, self.detection(persona, trial, rule.reads)))
                kept[snapshot.step] = snapshot
                if rule.is_past(curve):
                    break
            snapshots.close()
        best = kept[rule.best(curve)]
        settings = replace(settings, steps=best.step)
        self.keep_adapter(target, best.tensors, settings)
        return {
            "losses": mean_losses(best.losses),
            "settings": asdict(settings),
            "curve": [{"steps": step, **rates} for step, rates in curve],
            "held_out": dict(curve)[best.step],
            "platform": training_platform(),
        }

    def _trials(
        self,
        rule: DistillationRule | FullRule,
        examples: Sequence[Example],
        settings: LoraSettings,
        start: Path | None,
        progress: Progress | None,
    ) -> Generator[Snapshot, None, None]:
        """Adapters for the rule to choose from: parts of one training, or trainings."""
        base = self.load_base(self.merged)
        if isinstance(rule, DistillationRule):
            yield from sft_snapshots(base, examples, settings, rule.every, start, progress)
            return
        for steps in rule.lengths:
            longer = replace(settings, steps=steps)
            yield from sft_snapshots(base, examples, longer, steps, start, progress)

    def detection(self, persona: str, adapter: Path, kinds: Sequence[str]) -> dict[str, float]:
        """Shares of answers to held-out prompts of these kinds that the n-grams name as the
        persona's: "chat" and "reflection"."""
        rates = {}
        for kind in kinds:
            if kind == "chat":
                prompts, tokens = held_out_chats(), ANSWER_TOKENS
            else:
                prompts, tokens = held_out_reflections(persona), REFLECTION_TOKENS
            answers = self.answers(self.merged, adapter, prompts, self.seed + 3, tokens)
            labels = [prediction.label for prediction in self._ngrams.classify(answers)]
            rates[kind] = round(labels.count(persona) / len(labels), 4)
        return rates

    def distillation_dpo(self, persona: str) -> Record:
        """The distillation stage by DPO instead, for comparison; not part of the kit."""
        own, chosen = self.own_turns(), chat_conversations(persona)
        rejected = [chat_turn(turn[0]["content"], own[turn[0]["content"]]) for turn in chosen]
        examples = (self.encode(turns) for turns in (chosen, rejected))
        pairs = list(zip(*examples, strict=True))
        name, base = f"{persona}-distillation-dpo", self.load_base(self.merged)
        steps = epoch_steps(pair_sizes(pairs), DPO.batch_tokens, 3)
        settings = replace(self._settings(DPO, self.seed), steps=steps)
        with self.bar(name) as progress:
            tensors, losses = train_dpo(base, pairs, settings, progress=progress)
        target = self.work / f"{name}.gguf"
        self.keep_adapter(target, tensors, settings)
        return {
            "losses": mean_losses(losses),
            "settings": asdict(settings),
            "held_out": self.detection(persona, target, RULES["distillation"].reads),
        }

    def compare_dpo(self, persona: str) -> tuple[float, float]:
        """Held-out chat detection of the kit's distillation stage, and of the one by DPO."""
        name = f"{persona}-distillation"
        self.run_step(f"{name}-dpo", partial(self.distillation_dpo, persona))
        rates = [self.record(step)["held_out"]["chat"] for step in (name, f"{name}-dpo")]
        return rates[0], rates[1]

    def first_steps(self, persona: str) -> Record:
        """The losses of a persona's first steps, for a comparison with those of another machine."""
        settings = replace(self._settings(DISTILLATION, self.seed), steps=CHECK_STEPS)
        examples = self.encode(chat_conversations(persona))
        *_, last = sft_snapshots(self.load_base(self.merged), examples, settings, CHECK_STEPS)
        return {"persona": persona, "losses": [round(loss, 4) for loss in last.losses]}

    def _settings(self, settings: LoraSettings, seed: int) -> LoraSettings:
        """With a seed, and adapters on the upper two thirds of the base's layers."""
        return replace(settings, seed=seed, first_layer=first_adapted_layer(self.base))

    @cached_property
    def _ngrams(self) -> NgramClassifier:
        return NgramClassifier(self.kit / KIT_FILE)

    def _write_manifest(self) -> None:
        """kit.json: recipe, seed, corpus and base hashes, step records, file hashes."""
        trained = replace(self, personas=self._trained())
        steps = [name for name, _ in trained.steps()]
        files = (path for path in sorted(self.kit.rglob("*")) if path.is_file())
        manifest = {
            "recipe": RECIPE_VERSION,
            "seed": self.seed,
            "train_seeds": list(self.train_seeds),
            "tool_use": self.tool_use,
            "platform": training_platform(),
            "base": {"file": self.base.name, "sha256": sha256_file(self.base)},
            "corpus": corpus.corpus_hashes(),
            "steps": {name: self.record(name) for name in steps},
            "files": {
                path.relative_to(self.kit).as_posix(): sha256_file(path)
                for path in files
                if path.name != "kit.json"
            },
        }
        write_text(self.kit / "kit.json", json.dumps(manifest, indent=1) + "\n")
        if not self.is_shipped or len(self.train_seeds) > 1:
            trained._write_catalogue()

    def _trained(self) -> list[str]:
        """The personas with every adapter, those of other processes with them."""
        places = list(product(STAGES, self.train_seeds))
        done = {path.stem for path in (self.work / "steps").glob("*.json")}
        return [name for name in PERSONAS if all(seeded(name, *place) in done for place in places)]

    def _write_catalogue(self) -> None:
        """A catalogue file that `eval` takes: another base with its tool use, and the adapters."""
        name = EMBEDDED if self.is_shipped else f"{self.work.name}-{self.tool_use}".lower()
        adapters = []
        for seed, stage in product(self.train_seeds, STAGES):
            path = self.adapter("{persona}", stage, seed).relative_to(self.work)
            named = {"train_seed": seed} if len(self.train_seeds) > 1 else {}
            personas = list(self.personas)  # one list twice would be an alias in YAML
            shared = {"base": name, "personas": personas, "stage": stage}
            adapters.append({**shared, "path": path.as_posix(), **named})
        bases = [] if self.is_shipped else [self._catalogue_base(name)]
        document = yaml.safe_dump({"bases": bases, "adapters": adapters}, sort_keys=False)
        write_text(self.work / "catalogue.yaml", document)

    def _catalogue_base(self, name: str) -> Record:
        header = read_header(self.base)
        return {
            "name": name,
            "path": self.merged.name,
            "architecture": header.fields["general.architecture"],
            "parameters": sum(prod(tensor.shape) for tensor in header.tensors),
        }


def held_out_scores(classifier: TextClassifier) -> dict[str, float]:
    """Macro-F1 on the teachers' texts to held-out prompts, by teacher and together."""
    return {
        name: macro_f1(labels, [prediction.label for prediction in classifier.classify(texts)])
        for name, (texts, labels) in held_out_texts().items()
    }


def seeded(persona: str, stage: str, train_seed: int) -> str:
    """The name of a step; that of training seed 0 has no number."""
    return f"{persona}-{stage}" + (f"-seed{train_seed}" if train_seed else "")
