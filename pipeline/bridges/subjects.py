"""Subjects of NATS, topics of Kafka, and event types: all are words between dots.

In a subject `>` is `#`, but of one word at least. Source: "Subject-Based Messaging" of docs.nats.io.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.errors import ConfigError
from ..core.topics import check_pattern, check_type


class Subjects:
    """Which subject an event type has, and the other way round.

    Arguments:
        prefix: what stands before each type: with "shop" the type `order.placed` has the subject `shop.order.placed`.
        named: subjects by event types, both as patterns with the same wildcards in the same order, such as
            {"order.#": "wms.orders.>"}; they come before the prefix.
        shared: whether several types may have one subject, as in {"order.#": "orders"}; it says nothing of the type.

    Raises ConfigError for what cannot be a subject.

    """

    def __init__(self, prefix: str = "", named: Mapping[str, str] | None = None, *, shared: bool = False) -> None:
        self._prefix = prefix
        self._named = [(check_pattern(type), subject) for type, subject in (named or {}).items()]
        for type, subject in self._named:
            ours, theirs = _wild(type), ["#" if word == ">" else word for word in _wild(".".join(_words(subject)))]
            if (ours != theirs and (theirs or not shared)) or "#" in type.split(".")[:-1]:
                raise ConfigError(
                    f"subjects: {type!r}: {subject!r} do not have the same wildcards, as in 'order.#': 'orders.>'"
                )
        subjects = [subject for _, subject in self._named]
        self._several = {
            subject
            for type, subject in self._named
            if not _wild(subject) and (_wild(type) or subjects.count(subject) > 1)
        }
        if prefix and _wild(".".join(_words(prefix))):
            raise ConfigError(f"prefix: {prefix!r} is no subject without wildcards")

    def subject_of(self, event_type: str) -> str:
        """Return the subject of an event type."""
        for type, subject in self._named:
            if (found := _translated(event_type, type, subject)) is not None:
                return found
        return f"{self._prefix}.{event_type}" if self._prefix else event_type

    def type_of(self, subject: str) -> str:
        """Return the event type of a subject; empty where there is none."""
        for type, own in self._named:
            if subject == own and subject in self._several:
                return ""
            if (found := _translated(subject, own, type)) is not None:
                return _type(found)
        if self._prefix:
            return _type(subject[len(self._prefix) + 1 :]) if subject.startswith(f"{self._prefix}.") else ""
        return _type(subject)

    def listened(self, patterns: Sequence[str]) -> list[str]:
        """Return the subjects, as NATS has patterns, of all event types that match: no two of them share any.

        Raises ConfigError where that cannot be.

        """
        found = self.subjects(patterns)
        for number, one in enumerate(found):
            for other in found[:number]:
                if _common(one.split("."), other.split(".")) is not None:
                    raise ConfigError(
                        f"{other!r} and {one!r} have subjects in common, whose messages would come twice; "
                        "write patterns that have none, or one that has all"
                    )
        return found

    def subjects(self, patterns: Sequence[str]) -> list[str]:
        """Return the subjects, as patterns, of all event types that match; raise ConfigError where there are none."""
        found = list(dict.fromkeys(subject for pattern in patterns for subject in self._of(pattern)))
        return [one for one in found if not any(covers(other, one) for other in found if other != one)]

    def _of(self, pattern: str) -> list[str]:
        """Return the subjects of a pattern: those of the named types that it has, and the prefixed one for the rest."""
        if "#" in pattern.split(".")[:-1]:
            raise ConfigError(f"{pattern!r}: what stands for any words comes last here; write it as 'order.#'")
        found: list[str] = []
        for type, subject in self._named:
            common = _common(pattern.split("."), type.split("."))
            if common is not None and (own := _translated(".".join(common), type, subject)) is not None:
                found += _with_rest(own, alone=True)
                if ".".join(common) == pattern:
                    return found
        prefixed = f"{self._prefix}.{pattern}" if self._prefix else pattern
        return [*found, *_with_rest(prefixed, alone=pattern != "#")]


def _with_rest(subject: str, *, alone: bool) -> list[str]:
    """Return a subject as NATS has it, where the rest is one word at least; alone it is without a rest, too."""
    before, _, last = subject.rpartition(".")
    if last not in ("#", ">"):
        return [subject]
    return [*([before] if before and alone else []), f"{before}.>" if before else ">"]


def _common(one: Sequence[str], other: Sequence[str]) -> list[str] | None:
    """Return the words of the pattern of all that two match, in which what stands for any words comes last."""
    if one[:1] == ["#"] or other[:1] == ["#"]:
        return list(other if one[:1] == ["#"] else one)
    if not one or not other:
        return None if one or other else []
    if one[0] == ">" or other[0] == ">":
        return list(other if one[0] == ">" else one)
    if one[0] != other[0] and "*" not in (one[0], other[0]):
        return None
    rest = _common(one[1:], other[1:])
    return None if rest is None else [other[0] if one[0] == "*" else one[0], *rest]


def _translated(name: str, given: str, wanted: str) -> str | None:
    """Return what the words of a name are in another pattern than the one they match; None when they do not."""
    words, filled, rest = name.split("."), [], ""
    for number, one in enumerate(given.split(".")):
        if one in (">", "#"):
            rest = ".".join(words[number:])
            break
        if number >= len(words) or one not in ("*", words[number]):
            return None
        if one == "*":
            filled.append(words[number])
    else:
        if len(words) != len(given.split(".")):
            return None
    found = [filled.pop(0) if one == "*" else rest if one in (">", "#") else one for one in wanted.split(".")]
    return ".".join(filter(None, found))


def covers(general: str, special: str) -> bool:
    """Say whether one pattern of NATS matches all that another one does."""
    ours, theirs = general.split("."), special.split(".")
    for number, one in enumerate(ours):
        if one == ">":
            return number < len(theirs)
        if number >= len(theirs) or theirs[number] == ">" or one not in ("*", theirs[number]):
            return False
    return len(ours) == len(theirs)


def _wild(pattern: str) -> list[str]:
    return [word for word in pattern.split(".") if word in ("*", "#", ">")]


def _words(subject: str) -> list[str]:
    words = subject.split(".")
    if not all(words) or any(" " in word or not word.isprintable() for word in words) or ">" in words[:-1]:
        raise ConfigError(f"{subject!r} is no subject or topic")
    return words


def _type(text: str) -> str:
    try:
        return check_type(text)
    except ValueError:
        return ""
