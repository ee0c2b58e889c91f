"""The names of models on a server, by the checkpoint that each serves."""

from collections.abc import Sequence

from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.errors import BadInput

ANY_CHECKPOINT = ("", "")
"""The key of the one model on a server that serves whatever checkpoint the study names."""


def served_names(models: Sequence[str]) -> dict[tuple[str, str], str]:
    """The names on a server that ``--model`` gives, by (stage, persona); the base's persona is "".

    Each is base=NAME or STAGE/PERSONA=NAME; a NAME alone serves whatever checkpoint is asked for.
    Raises BadInput for other forms.
    """
    names: dict[tuple[str, str], str] = {}
    for text in models:
        role, equals, name = text.partition("=")
        if not equals:
            role, name = "", text
        stage, _, persona = role.partition("/")
        is_role = role == "base" or not equals or (stage in STAGES[1:] and persona)
        if not name or not is_role or (stage, persona) in names:
            raise BadInput(f"--model {text}: give base=NAME, STAGE/PERSONA=NAME, or one NAME alone")
        names[stage, persona] = name
    if ANY_CHECKPOINT in names and len(names) > 1:
        raise BadInput(
            f"--model {names[ANY_CHECKPOINT]}: write base= or STAGE/PERSONA= before each name"
        )
    return names
