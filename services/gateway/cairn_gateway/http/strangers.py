"""Tokens that are not known: each costs a question to the quota service, so an address has only so many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from starlette.types import Scope

from cairn_common.auth import Principal, hash_token
from cairn_common.errors import Unauthenticated
from cairn_common.rate import Rates
from cairn_gateway.http.address import Networks, client_address

Authenticate = Callable[[str, Scope], Awaitable[Principal]]
_MOST_FRIENDS = 10_000


class Strangers:
    """Checks tokens. Where an address has brought too many that are none, only those that were good before
    are looked at: who shares it goes on with the token that they have."""

    def __init__(
        self, authenticate: Callable[[str], Awaitable[Principal]], rates: Rates, proxies: Networks
    ) -> None:
        """`rates`: how often one address may be wrong."""
        self._authenticate = authenticate
        self._rates = rates
        self._proxies = proxies
        self._friends: OrderedDict[str, None] = OrderedDict()

    async def check(self, token: str, scope: Scope) -> Principal:
        """Whose token this is. Raises Unauthenticated, Unavailable, or ResourceExhausted unasked."""
        key, address = hash_token(token), client_address(scope, self._proxies)
        if key not in self._friends:
            self._rates.look(address)
        try:
            found = await self._authenticate(token)
        except Unauthenticated:
            self._friends.pop(key, None)
            self._rates.take(address)
            raise
        self._friends[key] = None
        self._friends.move_to_end(key)
        while len(self._friends) > _MOST_FRIENDS:
            self._friends.popitem(last=False)
        return found
