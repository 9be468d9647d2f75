"""Reads YAML that a stranger wrote: plain values only, bounded in size and depth, no duplicate keys."""

from __future__ import annotations

import reprlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NoReturn

import yaml

from cairn_common.errors import InvalidArgument, Reason

MOST_ALIASES = 100
_LONGEST_NUMBER = 100
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a document is, for messages, the reason of its errors, and how large it may be."""

    name: str
    reason: Reason
    most_bytes: int
    most_depth: int
    # Values, mappings and lists together.
    most_values: int


TASK = Kind("task file", Reason.TASK_INVALID, most_bytes=256 * 1024, most_depth=20, most_values=20_000)
TREE = Kind("tree file", Reason.TREE_INVALID, most_bytes=2 * 1024 * 1024, most_depth=80, most_values=400_000)


def read(text: str, kind: Kind = TASK) -> object:
    """The document as dicts with text keys, lists, and scalars.

    Raises InvalidArgument with the kind's reason: too large, malformed (with `line` and `column`, from 1),
    too deep, a key twice in one mapping, a key that is no text, too many aliases, or a type beyond plain
    values. Aliased values are shared, not copied: do not walk the result without a bound.
    """
    if len(text.encode("utf-8", "replace")) > kind.most_bytes:
        raise _refused(kind, f"the {kind.name} is larger than {kind.most_bytes // 1024} KiB")
    loader = _Loader(text, kind) if _printable(text) else None
    if loader is None:
        raise _refused(kind, f"the {kind.name} holds control characters; it is to be plain text")
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refused(kind, error.problem or error.context or "it is not YAML", mark) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise _refused(kind, f"it is not YAML: {str(error)[:200]}") from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Builds plain values, and counts as it goes, before anything large comes to be."""

    def __init__(self, text: str, kind: Kind) -> None:
        super().__init__(text)
        self._kind = kind
        self._depth = 0
        self._nodes = 0
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses too many values, too many aliases of them, and too deep a nesting."""
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._aliases > MOST_ALIASES:
            raise _problem(f"more than {MOST_ALIASES} aliases (`*name`)", self._mark())
        self._nodes += 1
        self._depth += 1
        most_values, most_depth = self._kind.most_values, self._kind.most_depth
        if self._nodes > most_values or self._depth > most_depth:
            told = (
                f"more than {most_values:,} values"
                if self._nodes > most_values
                else f"deeper than {most_depth} levels"
            )
            raise _problem(told, self._mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """Refuses what the base class lets pass: a key twice (the last would win), or one that is no text."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _problem(
                    f"the key {reprlib.repr(key)} is not a text; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise _problem(f"the key `{key[:80]}` stands here twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """No merging (`<<`): merged mappings can multiply; the key is refused with the tag that it has."""

    def _mark(self) -> yaml.Mark:
        mark: yaml.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return mark

    def construct_undefined(self, node: yaml.Node) -> NoReturn:
        """Tags such as `!!python/object` are refused where they stand."""
        raise _problem(f"the tag `{node.tag[:80]}` cannot be used in a {self._kind.name}", node.start_mark)


def _plain_time(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Dates stay the text that was written."""
    return str(loader.construct_scalar(node))


def _number(loader: _Loader, node: yaml.ScalarNode) -> object:
    """No number that takes long to read: `1:1:1...` is one to the base of 60."""
    if len(node.value) > _LONGEST_NUMBER:
        raise _problem(f"a number of {len(node.value):,} characters", node.start_mark)
    kind = node.tag.rpartition(":")[2]
    return yaml.SafeLoader.yaml_constructors[f"{_TAG}{kind}"](loader, node)


_Loader.add_constructor(None, _Loader.construct_undefined)
for _tag in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_tag}", _number)
_Loader.add_constructor(f"{_TAG}timestamp", _plain_time)
for _tag in ("binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"{_TAG}{_tag}", _Loader.construct_undefined)


def _printable(text: str) -> bool:
    return yaml.reader.Reader.NON_PRINTABLE.search(text) is None


def _problem(told: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=told, problem_mark=mark)


def _refused(kind: Kind, told: str, mark: yaml.Mark | None = None) -> InvalidArgument:
    if mark is None:
        return InvalidArgument(told, reason=kind.reason, path="")
    line, column = mark.line + 1, mark.column + 1
    return InvalidArgument(
        f"line {line}, column {column}: {told}", reason=kind.reason, path="", line=line, column=column
    )
