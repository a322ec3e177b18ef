"""Keeps secrets out of what leaves the process as telemetry.

Two rules: a field whose *name* speaks of a secret shows nothing of its value, and in any text what looks like a
credential (a password in a URL, a bearer token, `password=…`) is blanked. The second is a net under the first, for the
texts of other libraries; payloads do not belong into telemetry at all.
"""

from __future__ import annotations

import re

__all__ = ["REDACTED", "is_secret", "redact_text"]

REDACTED = "[redacted]"

_PARTS = (
    "password", "passwd", "passphrase", "secret", "token", "authorization", "credential", "cookie", "apikey", "privatekey",
)  # fmt: skip
_WORDS = frozenset({"auth", "bearer", "jwt", "key", "keys", "pwd"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# One cheap look decides whether the expensive patterns run at all.
_SUSPECT = re.compile(r"://|bearer|basic|pass|secret|token|authorization|credential|cookie|key|pwd", re.IGNORECASE)
_URL = re.compile(r"(://)[^/\s?#]*@")
_SCHEME = re.compile(r"\b(bearer|basic)(\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
# Repeats are bounded wherever two of them could share a text: an open one would cost the square of its length.
_ASSIGNED = re.compile(
    r"""((?:password|passwd|passphrase|secret|token|authorization|credentials?|cookie|api[_-]?key|private[_-]?key|pwd)
        \w{0,20}["']?\s{0,4}[=:]\s{0,4})
        ("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"',;&)}\]]+)""",
    re.IGNORECASE | re.VERBOSE,
)

_known: dict[str, bool] = {}


def is_secret(name: str) -> bool:
    """Whether a field of this name is shown as `[redacted]`: by word (`key`, `api_key`, `apiKey`) or part (`token`)."""
    found = _known.get(name)
    if found is None:
        # Names come from code; a caller that makes them from data must not fill the memory.
        if len(_known) >= 1_000:
            _known.clear()
        found = _known[name] = _judge(name)
    return found


def redact_text(text: str) -> str:
    """The text with what looks like a credential blanked."""
    if _SUSPECT.search(text) is None:
        return text
    text = _URL.sub(rf"\1{REDACTED}@", text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    return _ASSIGNED.sub(rf"\1{REDACTED}", text)


def _judge(name: str) -> bool:
    joined = "".join(c for c in name.lower() if c.isalnum())
    if any(part in joined for part in _PARTS):
        return True
    return any(word.lower() in _WORDS for word in _WORD.findall(name))
