"""Secrets in a command line, told by the names of options and by the forms of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "[redacted]"
# Whole words of a name: `max_new_tokens` is a number that a run cannot be repeated without.
_WORDS = (
    r"(?:(?:access|api|auth|private|refresh|secret)?(?:token|key)"
    r"|passw(?:or)?d|passphrase|secret|credentials?|auth|authorization)"
)
_NAME = rf"(?:[\w.-]*[_.-])?{_WORDS}(?:[_.-][\w.-]*)?"
_OPTION = re.compile(rf"--?({_NAME})", re.IGNORECASE)
_ASSIGNED_OPTION = re.compile(rf"(--?{_NAME}\+?=).*", re.IGNORECASE | re.DOTALL)
# In JSON, YAML, a header or the query of a URL: "api_key": "x", api_key: x, ?token=x&...
_ASSIGNED = re.compile(rf"""((?<![\w.-]){_NAME}["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,&;"'}}\]]+)""", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer|Basic)(\s+)[\w.~+/=-]{6,}", re.IGNORECASE)
_SCHEME = re.compile(r"(?:.*\s)?(?:bearer|basic)", re.IGNORECASE)
_USER = re.compile(r"(\w[\w+.-]*://)[^/\s@]+@")
_TOKENS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{8,} | sk-[\w-]{8,} | gh[pousr]_[A-Za-z0-9]{8,} | github_pat_\w{8,} | glpat-[\w-]{8,}
        | pypi-[\w-]{16,} | xox[abprs]-[\w-]{8,} | AKIA[0-9A-Z]{12,} | AIza[\w-]{20,} | eyJ[\w-]{8,}\.[\w-]+\.[\w-]*
    )""",
    re.VERBOSE,
)


def redacted(command: Sequence[str]) -> list[str]:
    """The command with ``[redacted]`` in the place of secrets.

    These are values of options and keys one of whose words is token, key, password, secret, credential or auth
    (``--logger.api_key x``; but ``--model.max_new_tokens 64`` stays), what follows ``Bearer`` or ``Basic``, user and
    password in a URL, and whatever has the form of a token of Hugging Face, GitHub, GitLab, PyPI, OpenAI, Slack, AWS or
    Google, or of a JSON web token. A secret of no known form under a harmless name stays.

    Args:
        command: program and arguments.
    """
    shown: list[str] = []
    for number, argument in enumerate(command):
        before = command[number - 1] if number else ""
        names_it = _OPTION.fullmatch(before) or _SCHEME.fullmatch(before)
        if names_it and not argument.startswith("--"):
            shown.append(HIDDEN)
        elif assigned := _ASSIGNED_OPTION.fullmatch(argument):
            shown.append(assigned[1] + HIDDEN)
        else:
            shown.append(_without_secrets(argument))
    return shown


def _without_secrets(text: str) -> str:
    text = _BEARER.sub(rf"\1\2{HIDDEN}", text)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    text = _TOKENS.sub(HIDDEN, text)
    return _ASSIGNED.sub(_keep_what_is_hidden, text)


def _keep_what_is_hidden(found: re.Match[str]) -> str:
    value = found[2]
    if value.lower() in ("bearer", "basic") or value.startswith(HIDDEN[:-1]):
        return found[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{found[1]}{quote}{HIDDEN}{quote}"
