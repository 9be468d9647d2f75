"""Words that a pattern needs are in every text in which it is found."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cairn_tracker.pattern import like, words


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("CUDA out of memory", ["cuda out of memory"]),
        ("(?i)out of +memory", ["out of ", "memory"]),
        ("(?i)disks", []),
        ("loss=[0-9]+ nan", ["loss="]),
        (r"epoch \d+ done\.", ["epoch ", " done."]),
        ("colou?r of it", ["r of it", "colo"]),
        ("abcd{0,2}efg", ["abc", "efg"]),
        ("abc+def", ["abc", "def"]),
        ("OOM|killed", []),
        ("(abc)?defg", []),
        ("", []),
        ("ab", []),
        (r"\Qa.b", []),
        ("größer", []),
    ],
)
def test_what_is_needed_is_what_nobody_can_leave_out(pattern: str, needed: list[str]) -> None:
    assert words(pattern) == needed


LETTERS = st.text("aAbBkKsS .*+?^$|()[]{}\\dw01,", max_size=14)


@given(LETTERS, st.text("aAbBkKsS .d0\u212a\u017f", max_size=12), st.booleans())
def test_no_text_is_found_without_its_words(pattern: str, text: str, fold: bool) -> None:
    whole = f"(?i){pattern}" if fold else pattern
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = re.search(whole, text)
    except (re.error, FutureWarning, DeprecationWarning):
        found = None
    assume(found)
    assert all(word in text.lower() or word in ascii_lower(text) for word in words(whole))


def ascii_lower(text: str) -> str:
    """As the store's `lower` does it."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def test_like_takes_a_word_by_its_letters() -> None:
    assert like(r"50%_a\b") == r"%50\%\_a\\b%"
