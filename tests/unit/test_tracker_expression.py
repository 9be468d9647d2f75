"""The language of searches: what it reads, and where it says that it cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_common.errors import InvalidArgument
from cairn_tracker.expression import Comparison, Joined, Not, Tree, order, parse
from cairn_tracker.search import Parameters, condition


def short(tree: Tree) -> str:
    """A tree as text, every parenthesis written."""
    match tree:
        case Not(of):
            return f"!{short(of)}"
        case Joined(word, parts):
            return "(" + f" {word} ".join(map(short, parts)) + ")"
        case Comparison(operand, operator, values):
            name = ".".join(filter(None, (operand.kind, operand.key, operand.aggregate)))
            return f"{name}{operator}{','.join(map(repr, values))}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'config.lr < 0.01 and metrics.acc > 0.9 and "night" in tags',
            "(config.lr<0.01 and metrics.acc.last>0.9 and tagsin'night')",
        ),
        ("name = 'a' or name = 'b' and not id = 'c'", "(name=='a' or (name=='b' and !id=='c'))"),
        ("(name = 'a' or name = 'b') AND id != 'c'", "((name=='a' or name=='b') and !id=='c')"),
        ("max(metrics.val/acc) >= -.5e3", "metrics.val/acc.max>=-500.0"),
        ('0.9 < metrics["it\'s"]', "metrics.it's.last>0.9"),
        ("params.`a b`.c = 1", None),
        ("params.`a b` = true", "config.a b==True"),
        (r'name =~ "a\"b\d"', "name=~'a\"b\\\\d'"),
        ('state not in ("failed", "timed_out")', "!statein'failed','timed_out'"),
        ("config.x == null", "config.x==None"),
        ("name !~ '^x'", "!name=~'^x'"),
    ],
)
def test_an_expression_is_read(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(InvalidArgument):
            parse(text)
    else:
        assert short(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 1),
        ("config.lr <", 12),
        ("config.lr < 0.01 metrics.a > 1", 18),
        ("  lr < 0.01", 3),
        ("config.lr ? 1", 11),
        ("(name = 'a'", 12),
        ("name = 'a' and", 15),
        ("name = 'a", 8),
        ("max(config.lr) > 1", 5),
        ("name in 'a'", 9),
        ("name not 'a'", 10),
        ("'a' in name", 8),
        ("'a' =~ name", 1),
        ("metrics. > 1", 1),
        ("metrics.`` > 1", 1),
        ("config.lr < 0.01; drop table runs", 17),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, position: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(text)
    assert f"at character {position}:" in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        "metrics.a > 'x'", "metrics.a > true", "metrics.a =~ 'x'", "metrics.a > null", "tags == 'x'",
        "tags in ('a', 'b')",
        "1 in tags", "state == 'gone'", "state > 'failed'", "created > 'soon'", "created =~ '2026'",
        "config.a > null", "config.a =~ 1", "name > 1", "name < null",
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="at character 1:"):
        condition(parse(text), Parameters(["main"]))


@pytest.mark.parametrize("text", ["(" * 51 + "id = 'a'" + ")" * 51, "not " * 52 + "id = 'a'"])
def test_what_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="within each other"):
        parse(text)


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="comparisons"):
        parse(" or ".join(["id = 'a'"] * 101))
    with pytest.raises(InvalidArgument, match="at most"):
        parse("id = '" + "a" * 4000 + "'")


def test_an_order_is_read() -> None:
    operand, falling = order("max(metrics.acc) desc")
    assert (operand.kind, operand.key, operand.aggregate, falling) == ("metrics", "acc", "max", True)
    assert order("config.lr")[1] is False
    assert order("config.lr ASC")[1] is False
    for wrong in ("tags", "lr", "config.lr down", "name, id"):
        with pytest.raises(InvalidArgument, match="order_by"):
            order(wrong)


pieces = st.lists(
    st.one_of(
        st.sampled_from(
            ["config.", "metrics", "metrics.a", "(", ")", "and", "or", "not", "in", "tags", "state", "'", '"',
             "`",
             "[", "]", "<", "==", "=~", "null", "1e999", "-", "\\", "name", "'x'", ",", "max(", " "]
        ),
        st.text(max_size=3),
    ),
    max_size=25,
)  # fmt: skip


@given(pieces)
def test_whatever_is_written_is_read_or_refused_and_never_pasted(parts: list[str]) -> None:
    text = "".join(parts) + " 'zqx'"
    try:
        given_ = Parameters(["main"])
        sql = condition(parse(f"name != 'zqx' or {text}"), given_)
    except InvalidArgument:
        return
    assert "zqx" not in sql
