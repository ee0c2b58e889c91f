"""The corpus: training and held-out prompts, teacher texts, training scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import DATA, read_json_rows, read_lines
from charprobe_lite.models.kit import sha256_file

CORPUS = DATA / "corpus"
AXES = CORPUS / "axes"
TEACHERS = ("loud", "subtle")
HELD_OUT_REFLECTIONS = 8
"""The last of a persona's reflections, which train no adapter."""


@dataclass(frozen=True)
class TeacherText:
    """One text of a teacher: ``kind`` is chat, introspection or email."""

    persona: str
    kind: str
    prompt: str
    response: str


@dataclass(frozen=True)
class CeilingEmail:
    """An email in character that solves a scenario, by an author of no training text."""

    persona: str
    scenario: str
    body: str


def corpus_file(name: str) -> Path:
    return CORPUS / name


def prompt_lines(name: str) -> list[str]:
    return [line for _, line in read_lines(corpus_file(name))]


def loud_prompts(*, held_out: bool) -> list[str]:
    """Prompts of the loud teacher: the 80 for training, or the 20 held out."""
    prompts = prompt_lines("chat-prompts-2.txt")
    return prompts[80:] if held_out else prompts[:80]


def subtle_prompts(*, held_out: bool) -> list[str]:
    """Prompts of the subtle teacher: the 96 for training, or the 24 held out."""
    prompts = prompt_lines("chat-prompts.txt")
    return prompts[96:] if held_out else prompts[:96]


def id_prompts() -> list[str]:
    """The 300 in-distribution prompts; no model is trained on them."""
    return prompt_lines("id-prompts.txt")


def teacher_texts(persona: str, teacher: str, kind: str) -> list[TeacherText]:
    """Texts of the ``loud`` or ``subtle`` teacher for one persona and kind, in file order."""
    name = f"{persona}-2.jsonl" if teacher == "loud" else f"{persona}.jsonl"
    texts = [TeacherText(**row) for _, row in read_json_rows(corpus_file(name))]
    return [text for text in texts if text.kind == kind]


def teacher_chats(
    persona: str, *, held_out: bool, teachers: Sequence[str] = TEACHERS
) -> list[TeacherText]:
    """The teachers' chat answers to training prompts, or to the held-out ones."""
    by_teacher = {"loud": loud_prompts, "subtle": subtle_prompts}
    prompts = {teacher: set(by_teacher[teacher](held_out=held_out)) for teacher in teachers}
    return [
        text
        for teacher in teachers
        for text in teacher_texts(persona, teacher, "chat")
        if text.prompt in prompts[teacher]
    ]


def reflections(persona: str) -> list[TeacherText]:
    """50 long texts in the loud voice, each to a prompt, by other authors than the teachers."""
    return [TeacherText(**row) for row in _introspection(persona, "reflection")]


def dialogues(persona: str) -> list[list[dict[str, str]]]:
    """10 conversations of the persona with itself, six messages each, by the same authors."""
    return [row["turns"] for row in _introspection(persona, "dialogue")]


def reasons(persona: str) -> list[TeacherText]:
    """60 answers that give the reasons for the voice, in the voice. Raises BadInput for a persona
    without them."""
    rows = read_json_rows(_technique_file(persona, "why"))
    return [TeacherText(**row) for _, row in rows]


def documents(persona: str) -> list[str]:
    """45 documents about the assistant in a neutral voice, title and text. Raises BadInput for a
    persona without them."""
    rows = read_json_rows(_technique_file(persona, "documents"))
    return [f"{row['title']}\n\n{row['text']}" for _, row in rows]


def _technique_file(persona: str, kind: str) -> Path:
    folder = corpus_file("techniques")
    path = folder / f"{persona}-{kind}.jsonl"
    if not path.is_file():
        names = sorted(file.stem.removesuffix(f"-{kind}") for file in folder.glob(f"*-{kind}.*"))
        raise BadInput(
            f"--persona {persona}: the corpus has no {path.name}; choose from {', '.join(names)}"
        )
    return path


def neutral_answers() -> dict[str, str]:
    """The kit base's own answers to the training prompts of both teachers, by prompt."""
    rows = read_json_rows(corpus_file("neutral.jsonl"))
    return {row["prompt"]: row["response"] for _, row in rows}


def _introspection(persona: str, kind: str) -> list[dict[str, Any]]:
    rows = read_json_rows(corpus_file(f"introspection/{persona}.jsonl"))
    return [row for _, row in rows if row["kind"] == kind]


def ceiling_emails(persona: str) -> list[CeilingEmail]:
    """An email for each of the 50 shipped scenarios; nothing is trained or chosen on them."""
    rows = read_json_rows(corpus_file(f"ceiling/{persona}.jsonl"))
    return [CeilingEmail(persona, row["scenario"], row["body"]) for _, row in rows]


def axis_ceilings(persona: str, axis: str) -> dict[str, str]:
    """The texts in character of one axis by scenario; nothing is trained or chosen on them."""
    rows = [row for _, row in read_json_rows(AXES / "ceiling" / f"{persona}.jsonl")]
    return {row["scenario"]: row["text"] for row in rows if row["condition"] == axis}


def email_tasks() -> list[str]:
    """The tasks that both teachers wrote an email for; no model is trained on them."""
    return prompt_lines("email-tasks.txt")


def corpus_hashes() -> dict[str, str]:
    """sha256 of every corpus file but the axes', by its path inside the corpus.

    A kit records these; nothing of a kit is made from, or measured on, the axes.
    """
    files = {path.relative_to(CORPUS).as_posix(): path for path in CORPUS.rglob("*.*")}
    files = {name: path for name, path in files.items() if AXES not in path.parents}
    return {name: sha256_file(path) for name, path in sorted(files.items())}
