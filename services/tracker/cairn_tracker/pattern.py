"""What a regular expression needs to be in a text, as far as that is easily said. Pure."""

from __future__ import annotations

from typing import Final

_MOST_WORDS: Final = 3
# As many letters as the index of lines has in a piece.
LEAST_LETTERS: Final = 3
_LAST_MAY_BE_MISSING: Final = "*?{"
# RE2 takes other letters for these, too, where case does not count: the Kelvin sign and the long s.
_FOLDED: Final = "ks"


def words(pattern: str) -> list[str]:
    """Pieces of lower-case ASCII text that every text in which `pattern` (RE2) is found has, case apart.

    At most three, the longest ones; none where that would take understanding the pattern.
    """
    if "|" in pattern:
        return []
    folding = "(?" in pattern
    found: list[str] = []
    run = ""
    rest = pattern.removeprefix("(?i)")
    while rest:
        letter, rest = rest[0], rest[1:]
        if letter == "\\":
            if not rest or rest[0] in "Qpx0123456789":
                break
            literal, rest = rest[0], rest[1:]
            if not literal.isalnum() and literal.isascii():
                run += literal
                continue
        elif letter in _LAST_MAY_BE_MISSING:
            run = run[:-1]
            if letter == "{":
                rest = rest.partition("}")[2]
        elif letter in "([)]":
            break
        elif letter not in ".^$+" and letter.isascii() and not (folding and letter.lower() in _FOLDED):
            run += letter.lower()
            continue
        found.append(run)
        run = ""
    found.append(run)
    return sorted((each for each in found if len(each) >= LEAST_LETTERS), key=len, reverse=True)[:_MOST_WORDS]


def like(word: str) -> str:
    """For LIKE: a text that has this piece in it."""
    return "%" + word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
