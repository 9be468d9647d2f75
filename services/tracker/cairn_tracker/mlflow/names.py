"""Names for runs that have none."""

from __future__ import annotations

import secrets
from typing import Final

_HOW: Final = """
able amber apt bold brave brisk calm candid clear clever crisp deft eager fair fleet fond gentle glad
grand handy honest jolly keen kind light lively lucid lucky mellow merry mild neat nimble noble polite
proud quick quiet rapid sharp smart snug solid spry steady sunny swift tidy upbeat vivid warm wise witty
"""
_WHAT: Final = """
ant auk bat bear bee boar carp cat cod colt cow crab crane crow deer doe dove duck eel elk fawn finch
flea fly fowl fox frog gnat goat goose grouse gull hare hawk hen heron horse jay kite koi lamb lark lynx
mole moose moth mouse mule newt ox owl perch pig ram rat raven rook seal shad shark sheep shrew skink
slug snail snake sole squid stag stork swan toad trout vole wasp whale wolf worm wren yak
"""


def random_name() -> str:
    """Two words and a number, such as `keen-heron-412`."""
    return f"{secrets.choice(_HOW.split())}-{secrets.choice(_WHAT.split())}-{secrets.randbelow(1000)}"
