"""Decentralized identifiers: which text is one, by the W3C's grammar."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.door.dids import emitter_of, flaw_of_did, is_did
from pipeline.core.event import MAX_LENGTH, Event

#: DID Core 1.0, section 3.1, rule by rule.
_IDCHAR = r"(?:[A-Za-z]|[0-9]|\.|-|_|%[0-9A-Fa-f][0-9A-Fa-f])"
GRAMMAR = re.compile(rf"did:(?:[a-z]|[0-9])+:(?:{_IDCHAR}*:)*{_IDCHAR}+")
#: The texts that come near to one.
NEAR = st.from_regex(r"(did:|dip:|)[a-zB2]{0,3}:?([aZ9._:%-]|%4[aG]| |#|/)*", fullmatch=True)


@pytest.mark.parametrize(
    "did",
    [
        "did:web:example.com:agents:research",
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
        "did:web:localhost%3A8443",
        "did:0:-",
        "did:a::x",
    ],
)
def test_what_the_grammar_allows_is_an_identifier(did: str) -> None:
    assert flaw_of_did(did) is None
    assert is_did(did)


@pytest.mark.parametrize(
    ("did", "said"),
    [
        ("research", "begins with 'did:'"),
        (7, "begins with 'did:'"),
        ("DID:web:a", "begins with 'did:'"),
        ("did:Web:a", "a method of lower-case letters"),
        ("did:web:", "does not end with ':'"),
        ("did:web:a%3", "escapes such as '%3A'"),
        ("did:web:a b", "letters, digits"),
        ("did:web:a,b", "letters, digits"),
        ("did:web:a\n", "letters, digits"),
        ("did:web:example.com#key-1", "a fragment makes it the address of something else"),
        ("did:web:" + "a" * 300, "308 characters are too many; 255"),
    ],
)
def test_what_is_none_is_refused_with_the_way_out(did: object, said: str) -> None:
    assert said in (flaw_of_did(did) or "")


@given(NEAR)
@example("did:a::")
def test_the_rule_is_the_grammar_of_the_w3c(text: str) -> None:
    assert (flaw_of_did(text) is None) == (GRAMMAR.fullmatch(text) is not None and len(text) <= MAX_LENGTH)


def test_the_longest_identifier_is_the_longest_source() -> None:
    longest = "did:web:" + "a" * (MAX_LENGTH - 8)
    assert flaw_of_did(longest) is None
    assert Event(id="1", type="a", source=longest).source == longest
    assert flaw_of_did(longest + "a") is not None


def test_a_source_tells_the_agent_by_its_did_or_by_its_name() -> None:
    assert emitter_of("did:web:example.com:agents:research") == "did:web:example.com:agents:research"
    assert emitter_of("/shop/agent/billing") == "billing"
    assert emitter_of("/shop") == ""
