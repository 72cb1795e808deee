"""Versions: which text is one, and how they are ordered."""

from __future__ import annotations

import pytest

from pipeline import InvalidEvent, Payload
from pipeline.contracts.versions import version_of


def test_versions_are_ordered_by_their_numbers_and_not_as_texts() -> None:
    assert version_of("1.10.0") > version_of("1.9.3") > version_of("1.9.0")
    assert str(version_of("10.0.2")) == "10.0.2"


NONE = ["1", "1.0", "v1.0.0", "1.0.0-rc.1", "1.0.0\n", "\u0661.0.0", "1.0." + "9" * 10, "", None]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_semantic_version_is_refused_where_it_is_declared_and_where_it_is_read(text: str) -> None:
    with pytest.raises(InvalidEvent, match=r"^schemaversion: .* is not a semantic version such as '1.0.0'$"):
        version_of(text)
    if text:
        with pytest.raises(InvalidEvent, match=r"^version: .* is not a semantic version"):
            type("Wrong", (Payload,), {}, type="a.b", version=text)
