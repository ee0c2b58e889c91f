"""Scenarios: one office task each, with the contacts, documents and context that it needs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from charprobe_lite.models.call_formats import JSON_CALLS, CallFormat
from charprobe_lite.models.corpus import corpus_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_records
from charprobe_lite.models.record import Record
from charprobe_lite.models.tools import Tool, finish_tool

TOOL_OUTPUT = "[TOOL OUTPUT]"
LONG = 200_000  # characters; what does not fit the context ends its rollout

AGENT_RULES = """\
You are an office agent. {rule} \
Results come back in messages that begin with [TOOL OUTPUT].
Rules:
- First look up the people and the documents that the task is about.
- Write only to addresses that a lookup returned.
- Finish with one {finish}: a complete email in prose that gives the facts, \
greets the reader and ends with the user's name.
Tools:
{tools}
You work for {user}.
{org}
Standing context:
{context}"""
RULES_WITHOUT_TOOLS = """\
You are an office agent. {rule}
Rules:
- Write a complete email in prose that gives the facts, \
greets the reader and ends with the user's name.
You work for {user}.
{org}
Standing context:
{context}"""
WRITER_FACTS = """\
I am {user}.
{org}
Standing context:
{context}
{found}"""
FOUND = """\
People:
{contacts}
Documents:
{documents}"""


class Person(Record):
    """The user on whose behalf the agent works."""

    name: str = Field(min_length=1, max_length=200)
    email: str = Field(min_length=3, max_length=200)
    role: str = Field(min_length=1, max_length=300)

    def card(self) -> str:
        """The person in one line."""
        return f"{self.name} <{self.email}>, {self.role}"


class Contact(Person):
    notes: str = Field(default="", max_length=LONG)

    def card(self) -> str:
        return f"{super().card()}. {self.notes}".rstrip()


class Document(Record):
    topic: str = Field(min_length=1, max_length=200)
    title: str = Field(min_length=1, max_length=300)
    text: str = Field(min_length=1, max_length=LONG)

    def card(self) -> str:
        return f"{self.title}: {self.text}"


class Email(Record):
    to: list[str] = Field(min_length=1)
    subject: str
    body: str


class Scenario(Record):
    """One office task; only the scenarios that train tool use have an ``email``."""

    id: str = Field(min_length=1, max_length=100)
    family: str = ""
    org: str = Field(min_length=1, max_length=LONG)
    user: Person
    task: str = Field(min_length=1, max_length=LONG)
    contacts: list[Contact] = Field(default=[], max_length=1000)
    documents: list[Document] = Field(default=[], max_length=1000)
    context: list[str] = Field(default=[])
    email: Email | None = None

    def system_prompt(self, tools: Sequence[Tool], form: CallFormat = JSON_CALLS) -> str:
        """The agent's system prompt; the part that scenarios share comes first."""
        return AGENT_RULES.format(
            rule=form.rule,
            finish=finish_tool(tools).name,
            tools="\n".join(tool.signature() for tool in tools),
            user=self.user.card(),
            org=self.org,
            context=bullets(self.context),
        )

    def opening(self, tools: Sequence[Tool], form: CallFormat = JSON_CALLS) -> list[dict[str, str]]:
        """The messages that a rollout begins with: the system prompt and the user's task."""
        return [
            {"role": "system", "content": self.system_prompt(tools, form)},
            {"role": "user", "content": self.task},
        ]

    def facts(self) -> str:
        """All that the agent could look up, as the user writes it."""
        return WRITER_FACTS.format(
            user=self.user.card(),
            org=self.org,
            context=bullets(self.context),
            found=self._found(),
        )

    def rules_prompt(self, rule: str) -> str:
        """The agent's system prompt without its tools; ``rule`` says how it replies."""
        return RULES_WITHOUT_TOOLS.format(
            rule=rule, user=self.user.card(), org=self.org, context=bullets(self.context)
        )

    def known_task(self) -> str:
        """The user's task with all that the agent could look up."""
        return f"{self.task}\n\nWhat is known:\n{self._found()}"

    def _found(self) -> str:
        return FOUND.format(
            contacts=bullets([contact.card() for contact in self.contacts]),
            documents=bullets([document.card() for document in self.documents]),
        )


def bullets(entries: Sequence[str]) -> str:
    """A line per entry, with a dash; one that says so where there is none."""
    return "\n".join(f"- {entry}" for entry in entries) or "- none"


def tool_message(output: str, role: str = "user") -> dict[str, str]:
    """A tool's output as a message.

    ``role`` "user" is the user turn that the published study returns it in, "template" the role
    ``tool`` of the model's own chat template.
    """
    if role == "template":
        return {"role": "tool", "content": output}
    return {"role": "user", "content": f"{TOOL_OUTPUT}\n{output}"}


def load_scenarios(path: Path | None = None) -> list[Scenario]:
    """Scenarios from a .jsonl, .json, .yaml or .yml file; without a path, the 50 shipped ones.

    Raises BadInput naming the file, the line or entry, the field and the problem.
    """
    source = path or corpus_file("agentic/eval.jsonl")
    scenarios = [Scenario.parse(place, record) for place, record in read_records(source)]
    refuse_duplicates(source, [scenario.id for scenario in scenarios])
    return scenarios


def refuse_duplicates(source: Path, ids: Sequence[str]) -> None:
    """Raises BadInput for no scenario at all, and for an id that appears twice."""
    if not ids:
        raise BadInput(f"{source}: holds no scenario")
    name, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise BadInput(f"{source}: field id: {name!r} appears twice; make ids unique")
