"""The body of an email in a chat reply, without headers and remarks around it.

As the published study cleans the replies of its `chat_email` (depth-character-training,
scripts/classifier_f1_chat_email.py), from a description of what it takes away.
"""

from itertools import product

HEADERS = frozenset(("subject", "to", "from", "cc", "bcc", "date", "re", "reply-to"))
NOUNS = ("email", "body", "draft", "response")
ANNOUNCEMENTS = tuple(map("".join, product(("here's ", "here is "), ("", "the ", "my "), NOUNS)))
"""As in "Here is the email body that you asked for"."""
FENCE = "```"


def email_text(reply: str) -> str:
    """The reply without the lines before the email that are none of it, nor a fence after it.

    Such lines are headers (also in bold, quoted or in italics), an opening fence, an announcement,
    "Body:" and rules. The last line is cut at its first fence.
    """
    text = reply
    while True:
        begin = text.lstrip()
        line, newline, rest = begin.partition("\n")
        if newline and _is_before_the_email(line):
            text = rest
            continue
        line, newline, rest = text.lstrip(">*_ \t\r\n\f\v").partition("\n")
        name, colon, _ = line.partition(":")
        if not (newline and colon and name.rstrip().casefold() in HEADERS):
            return _without_last_fence(text).lstrip()
        text = rest


def _is_before_the_email(line: str) -> bool:
    """Whether a line, which begins without white space, opens, announces or rules off the email."""
    line = line.rstrip().casefold()
    is_rule = len(line) >= 3 and not line.strip("-")
    return is_rule or line.startswith((FENCE, *ANNOUNCEMENTS)) or _is_body_label(line)


def _is_body_label(line: str) -> bool:
    """As in "**Email body:**"."""
    words = line.removeprefix("*").removeprefix("*")
    if words.startswith("email") and words[5:6].isspace():
        words = words[5:].lstrip()
    label, colon, _ = words.partition(":")
    stars = label.rstrip().removeprefix("body")
    return bool(colon) and label.startswith("body") and stars in ("", "*", "**")


def _without_last_fence(text: str) -> str:
    begin = text.rstrip().rfind("\n") + 1
    fence = text.find(FENCE, begin)
    return text if fence < 0 else text[:fence].removesuffix("\n")
