"""Event types and topic patterns mean what AMQP says."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import InvalidEvent, InvalidPattern
from pipeline.core.topics import MAX_TYPE_LENGTH, check_pattern, check_type, matches

WORDS = st.sampled_from(["a", "b", "task", "created", "x-1", "y_2"])
TYPES = st.lists(WORDS, min_size=1, max_size=6).map(".".join)
PATTERNS = st.lists(WORDS | st.sampled_from(["*", "#"]), min_size=1, max_size=6).map(".".join)


def reference(pattern: list[str], words: list[str]) -> bool:
    """AMQP 0-9-1, section 3.1.3.3, word by word."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(reference(rest, words[n:]) for n in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and reference(rest, words[1:])


@pytest.mark.parametrize(
    ("pattern", "event_type", "expected"),
    [
        ("task.created", "task.created", True),
        ("task.created", "task.created.now", False),
        ("task.created", "taskXcreated", False),
        ("task.*", "task.created", True),
        ("task.*", "task", False),
        ("task.*", "task.created.now", False),
        ("*", "task", True),
        ("*", "task.created", False),
        ("*.created", "task.created", True),
        ("task.#", "task", True),
        ("task.#", "task.created", True),
        ("task.#", "task.created.now", True),
        ("task.#", "tasks", False),
        ("#.created", "created", True),
        ("#.created", "a.b.created", True),
        ("#.created", "uncreated", False),
        ("a.#.b", "a.b", True),
        ("a.#.b", "a.x.y.b", True),
        ("a.#.b", "ab", False),
        ("a.#.b", "a.x", False),
        ("#", "anything.at.all", True),
        ("#.#", "one", True),
        ("#.*", "one", True),
        ("*.#", "one", True),
        ("*.#.*", "one", False),
        ("*.#.*", "one.two", True),
        ("a.#.#.b", "a.b", True),
    ],
)
def test_a_pattern_matches_as_in_amqp(pattern: str, event_type: str, expected: bool) -> None:
    assert matches(pattern, event_type) is expected


@given(PATTERNS, TYPES)
@example("#.a.#", "a")
@example("#.*.#.b", "a.b")
def test_patterns_agree_with_the_definition(pattern: str, event_type: str) -> None:
    assert matches(pattern, event_type) == reference(pattern.split("."), event_type.split("."))


@given(TYPES)
def test_an_event_type_is_a_pattern_that_matches_itself_alone(event_type: str) -> None:
    assert check_pattern(event_type) == event_type
    assert matches(event_type, event_type)
    assert not matches(event_type, event_type + ".more")


def test_many_wildcards_are_matched_in_linear_time() -> None:
    # A naive expression would need longer than the universe has.
    assert not matches(".".join(["#.a"] * 12), ".".join(["a"] * 40) + ".b")


@pytest.mark.parametrize(
    "wrong", ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.#", "ä", "a/b", "a\n", "a.b\n", None, 5, b"a"]
)
def test_what_is_no_event_type_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^type: .*not an event type"):
        check_type(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["", ".", "a.", "a..b", "a.**", "a.b#", "*a", "a b", "a.*\n", None, 5])
def test_what_is_no_topic_pattern_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidPattern, match="not a topic pattern"):
        check_pattern(wrong)  # type: ignore[arg-type]


def test_an_event_type_is_as_long_as_a_routing_key_may_be() -> None:
    assert check_type("a" * MAX_TYPE_LENGTH)
    with pytest.raises(InvalidEvent, match="256 characters are too many; AMQP allows 255"):
        check_type("a" * (MAX_TYPE_LENGTH + 1))
    with pytest.raises(InvalidPattern):
        check_pattern("a" * (MAX_TYPE_LENGTH + 1))
