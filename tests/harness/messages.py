"""Messages that nobody in their right mind would send, made from descriptors."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from cairn_common.ids import new_uid

_TEXTS = (
    "", "main", "teams/main", "teams/main/runs/", "../../etc/passwd", "'; DROP TABLE jobs; --", "{x:String}",
    "a\x00b", "\r\nX-Evil: 1", "💥" * 50, "x" * 5000, "-", "*", ">", "teams/-", "[[[[((((", "1e400", "NaN",
)  # fmt: skip
# What is asked of first, now and then as it should be, so that more than the first check is met.
_GOOD = {"parent": "teams/main", "team": "main", "page_token": "", "request_id": "", "etag": ""}
_INTEGERS = (0, 1, -1, 2**31 - 1, -(2**31), 7, 1000)
_LONG = (*_INTEGERS, 2**63 - 1, -(2**63), 10**12)
_FLOATS = (0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324)
_DEEPEST = 4


def nasty(kind: Descriptor, chance: random.Random, *, depth: int = 0) -> Message:
    """A message of this kind with some of its fields filled, none of them well."""
    message: Any = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if chance.random() < 0.35 or (field.message_type is not None and depth >= _DEEPEST):
            continue
        _fill(message, field, chance, depth)
    made: Message = message
    return made


def _fill(message: Any, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_key, of_value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        key = _value(of_key, chance)
        target = getattr(message, field.name)
        if of_value.message_type is not None:
            target[key].MergeFrom(nasty(of_value.message_type, chance, depth=depth + 1))
        else:
            target[key] = _value(of_value, chance)
    elif field.message_type is not None:
        times = chance.choice((0, 1, 3)) if field.is_repeated else 1
        for _ in range(times):
            target = getattr(message, field.name)
            one = target.add() if field.is_repeated else target
            one.SetInParent()
            one.MergeFrom(nasty(field.message_type, chance, depth=depth + 1))
    elif field.is_repeated:
        getattr(message, field.name).extend(_value(field, chance) for _ in range(chance.choice((0, 1, 5))))
    else:
        setattr(message, field.name, _value(field, chance))


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    kinds = FieldDescriptor
    if field.type == kinds.TYPE_BYTES:
        return chance.randbytes(chance.choice((0, 3, 300)))
    if field.enum_type is not None:
        return chance.choice([*(value.number for value in field.enum_type.values), 99])
    match field.cpp_type:
        case kinds.CPPTYPE_STRING:
            if field.name in _GOOD and chance.random() < 0.8:
                return _GOOD[field.name]
            return chance.choice((*_TEXTS, new_uid(), f"teams/main/jobs/{new_uid()}"))
        case kinds.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case kinds.CPPTYPE_INT32:
            return chance.choice(_INTEGERS)
        case kinds.CPPTYPE_INT64:
            return chance.choice(_LONG)
        case kinds.CPPTYPE_UINT32 | kinds.CPPTYPE_UINT64:
            return abs(chance.choice(_INTEGERS[:-2]))
        case _:
            return chance.choice(_FLOATS)
