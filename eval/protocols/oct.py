"""`oct`, the published paper: chats in distribution, with and without a break-character suffix.

Facts from the code of maiush/OpenCharacterTraining (arXiv 2511.01689), which has no agent:
conditions with tools run as in `lite`.
"""

from dataclasses import replace

from charprobe_lite.eval.protocols import lite
from charprobe_lite.eval.protocols.protocol import Fact
from charprobe_lite.models.prompts import PUBLISHED_SUFFIXES_FILE

CODE = "OpenCharacterTraining/character/"
TRAINED = f"{CODE}robustness/generate/trained.py"
PROTOCOL = replace(
    lite.PROTOCOL,
    name="oct",
    summary="the paper: 500 chats in distribution, and each with eight requests to break character",
    facts=[
        Fact(
            "personas",
            "eleven, misalignment included (its full-stage adapter is gated); those that the "
            "base has adapters of",
            f"{CODE}utils.py",
        ),
        Fact(
            "prompts",
            "the first inputs of the first 500 conversations of LDJnr/Pure-Dove, in the file's "
            "order; the published classifiers learned from the same prompts. For the embedded "
            "base its own prompts",
            TRAINED,
        ),
        Fact(
            "decoding",
            "temperature 0.7, top_p 0.95, repetition penalty 1.1 over prompt and reply, 1024 new "
            "tokens; context 8192 (Llama), 16384 (Qwen, Gemma)",
            f"{TRAINED}, {CODE}utils.py",
        ),
        Fact("seeds", "none are set there; here one per rollout", TRAINED),
        Fact("BOS", "twice where the template writes one, as in depth", TRAINED),
        Fact("clean-up", "answers lose white space at both ends", TRAINED),
        Fact(
            "suffixes", "eight published ones, each with every prompt, after one newline", TRAINED
        ),
        Fact("agents", "none; conditions with tools run as in lite", "not a part of the paper"),
        Fact(
            "classifier",
            "the bare text, cut at 8192 tokens; macro-F1 over eleven classes",
            f"{CODE}robustness/classify/run_classifier.py",
        ),
        Fact(
            "adapters",
            "its introspection stage is the introspection LoRA on the merged distilled model; the "
            "full stage of the hub adds both LoRAs with weights 1.0 and 0.25 (linear), another "
            "checkpoint",
            "OpenCharacterTraining/tools/merge_loras.py",
        ),
        Fact("intervals", "none are published; here prompts are resampled", lite.OURS),
    ],
    conditions=("chat", "break_character"),
    defaults={
        "max_tokens": 1024,
        "context": 8192,
        "limit": (500, "all"),
        "prompts": "pure-dove",
        "persona": ("all", "misalignment"),
        "repetition_penalty": 1.1,
        "bos": "double",
    },
    suffixes=PUBLISHED_SUFFIXES_FILE,
    separator="\n",
    rotates_suffixes=False,
    prompt_order="file",
)
