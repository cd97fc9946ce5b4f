"""NATS subjects: which are valid, which match, and the durable consumer's name for one."""

import hashlib
import re

_TOKEN = re.compile(r"[^\s.*>]+")


def is_subject(subject: str) -> bool:
    """Return whether something can be published on it: tokens without blanks and wildcards."""
    return all(_TOKEN.fullmatch(token) for token in subject.split("."))


def is_filter(pattern: str) -> bool:
    """Return whether it can be subscribed to: a subject, or one with `*` for a token or `>` at its end."""
    *heads, tail = pattern.split(".")
    if not all(part == "*" or _TOKEN.fullmatch(part) for part in heads):
        return False
    return tail in ("*", ">") or bool(_TOKEN.fullmatch(tail))


def is_wildcard(pattern: str) -> bool:
    """Return whether the pattern can match more than one subject."""
    return any(token in ("*", ">") for token in pattern.split("."))


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject matches a pattern, as nats-server would decide."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for position, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > position
        if position >= len(tokens) or part not in ("*", tokens[position]):
            return False
    return len(tokens) == len(wanted)


def durable_name(function: str, subject: str) -> str:
    """Return the consumer's name: the same for the same function and subject, valid, and readable."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{function}-{subject}").strip("_")
    # The digest tells apart what the replaced characters made equal.
    digest = hashlib.sha256(f"{function}\n{subject}".encode()).hexdigest()[:8]
    return f"{readable[:100]}-{digest}"
