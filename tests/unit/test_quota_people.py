"""Who may make whom what, as tables; and what is a password or an address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_common.errors import DomainError, InvalidArgument, Reason
from cairn_quota.model import Role
from cairn_quota.people import Change, Members, check_change, check_email, check_password, id_of
from cairn_quota.sign_in import neighbourhood

VIEWER, MEMBER, ADMIN, OWNER = Role
TEAM = Members({"o": OWNER, "a": ADMIN, "b": ADMIN, "m": MEMBER, "v": VIEWER})


def why_not(
    actor: str, subject: str, role: Role | None, *, members: Members = TEAM, account: bool = False
) -> str:
    try:
        check_change(Change("vision", actor, subject, role, is_account=account), members)
    except DomainError as error:
        return str(error.reason)
    return ""


@pytest.mark.parametrize(
    ("actor", "subject", "role", "reason"),
    [
        ("o", "m", OWNER, ""),
        ("o", "a", None, ""),
        ("a", "m", ADMIN, ""),
        ("a", "b", VIEWER, ""),
        ("a", "new", ADMIN, ""),
        ("m", None, None, ""),
        ("v", None, None, ""),
        ("a", None, VIEWER, ""),
        # Nobody gives more than they have, or touches somebody above them.
        ("a", "m", OWNER, Reason.ROLE_TOO_LOW),
        ("a", "new", OWNER, Reason.ROLE_TOO_LOW),
        ("a", "o", MEMBER, Reason.ROLE_TOO_LOW),
        ("a", "o", None, Reason.ROLE_TOO_LOW),
        # Nobody raises themselves.
        ("v", None, MEMBER, Reason.ROLE_TOO_LOW),
        ("m", None, ADMIN, Reason.ROLE_TOO_LOW),
        ("a", None, OWNER, Reason.ROLE_TOO_LOW),
        ("m", "new", VIEWER, Reason.ROLE_TOO_LOW),
        ("m", "v", None, Reason.ROLE_TOO_LOW),
        ("stranger", "m", None, Reason.ROLE_TOO_LOW),
        # The last owner stays.
        ("o", None, None, Reason.OWNER_LAST),
        ("o", None, ADMIN, Reason.OWNER_LAST),
    ],
)  # fmt: skip
def test_who_may_make_whom_what(actor: str, subject: str | None, role: Role | None, reason: str) -> None:
    assert why_not(actor, subject or actor, role) == reason


def test_an_owner_leaves_where_there_is_another_who_is_not_disabled() -> None:
    two = Members({"o": OWNER, "p": OWNER})
    assert why_not("o", "o", None, members=two) == ""
    assert why_not("o", "o", None, members=Members(two.roles, frozenset({"p"}))) == Reason.OWNER_LAST


@pytest.mark.parametrize("role", [ADMIN, OWNER])
def test_a_service_account_is_never_more_than_a_member(role: Role) -> None:
    assert why_not("o", "ci", role, account=True) == Reason.FIELD_INVALID


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(list(Role)), min_size=1),
    st.sampled_from("abcdef"),
    st.sampled_from("abcdef"),
    st.one_of(st.none(), st.sampled_from(list(Role))),
)
def test_no_change_gives_anybody_more_than_its_actor_has_or_takes_the_last_owner(
    roles: dict[str, Role], actor: str, subject: str, role: Role | None
) -> None:
    if why_not(actor, subject, role, members=Members(roles)):
        return
    assert role is None or role <= roles[actor]
    if actor == subject and role is not None:
        assert role <= roles[actor]
    after = {key: value for key, value in roles.items() if key != subject} | (
        {} if role is None else {subject: role}
    )
    assert OWNER not in roles.values() or OWNER in after.values()


def test_who_has_many_addresses_of_a_network_is_counted_as_one() -> None:
    near = [neighbourhood(one) for one in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1")]
    assert near[0] == near[1] != near[2]
    assert [neighbourhood(one) for one in ("192.0.2.1", "", "nowhere")] == ["192.0.2.1", "", "nowhere"]


def test_an_address_is_kept_in_lower_case_and_makes_an_id() -> None:
    assert check_email(" Ada.L@Lab.Example ") == "ada.l@lab.example"
    assert [id_of(one) for one in ("ada.l@x", "42@x", "A+b@x".lower(), "_@x")] == [
        "ada-l",
        "u-42",
        "a-b",
        "u",
    ]


@pytest.mark.parametrize(
    "text", ["", "ada", "ada@", "@lab", "a b@lab", "a@lab\n", "a@-", "a@l..b", "a\0@lab", "ä@lab"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        check_email(text + "" if text != "a@lab\n" else "a@la\nb")


@pytest.mark.parametrize("text", ["", "short", "x" * 257, "aaaaaaaaaaaa", "ada@lab.example"])
def test_a_bad_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_password(text, email="ada@lab.example")
    assert not text or text not in caught.value.message
