"""What a password is checked against, whether there is such a user or not."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerificationError

from cairn_quota.passwords import Passwords


class Counting(PasswordHasher):
    """Notes each hash that it was asked to check."""

    def __init__(self) -> None:
        super().__init__(time_cost=2, memory_cost=64, parallelism=1)
        self.checked: list[str | bytes] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:
        self.checked.append(hash)
        return super().verify(hash, password)


@pytest.mark.parametrize("stored", ["theirs", None, "no hash at all"])
async def test_the_same_work_is_done_for_a_user_and_for_nobody(stored: str | None) -> None:
    """So that no clock tells which addresses have an account: one check, of a hash that costs the same."""
    hasher = Counting()
    passwords = Passwords(hasher)
    kept = await passwords.hash("right") if stored == "theirs" else stored
    for password, good in (("wrong", False), ("right", stored == "theirs")):
        hasher.checked.clear()
        assert await passwords.matches(kept, password) == good
        done = [str(one) for one in hasher.checked if one != "no hash at all"]
        assert len(done) == 1
        assert extract_parameters(done[0]) == extract_parameters(await passwords.hash("x"))


async def test_nobody_comes_in_by_what_is_checked_for_nobody() -> None:
    passwords = Passwords(Counting())
    assert not await passwords.matches(None, "nobody signs in by this")
    with pytest.raises(VerificationError):
        PasswordHasher().verify(passwords._nobodys, "something else")
