"""The one exception for input that a user can mend, and how a schema error is put in a line."""

from __future__ import annotations


class BadInput(Exception):
    """Input that cannot be used; the message is one line: file, field and mend.

    The command line prints it on stderr and exits with status 2.
    """


def printable(text: str) -> str:
    """Text from an untrusted file in one line, without escape sequences that a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_problem(error: Exception) -> str:
    """The first problem of a pydantic, JSON or native error as one line with its field."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "document"
        return f"field {field}: {problem['msg']}"
    return " ".join(str(error).split())[:300]
