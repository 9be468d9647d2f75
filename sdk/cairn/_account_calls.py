"""The part of `cairn.Client` that is about people: who one is, teams and their members, tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cairn._http import Json, segment
from cairn._ids import new_uid
from cairn._team_calls import BASE, TeamCalls, bare


class AccountCalls(TeamCalls):
    """Calls of one bearer in one team; see `cairn.Client`. Users are named by their ids: ``ada``."""

    def me(self) -> Json:
        """Who the token says is calling."""
        return self.api.get(f"{BASE}/me")

    def user(self, user: str = "me") -> Json:
        """Somebody of a team of one's own; `me` is oneself."""
        return self.api.get(f"{BASE}/users/{segment(bare(user))}")

    def users(self) -> list[Json]:
        """Everybody; for admins of the organisation."""
        return list(self.api.pages(f"{BASE}/users", "users"))

    def set_user_state(self, user: str, *, enabled: bool) -> Json:
        """Lets nobody in as this user any more, or again; for admins of the organisation."""
        verb = "enable" if enabled else "disable"
        return self.api.post(f"{BASE}/users/{segment(bare(user))}:{verb}")

    def set_password(self, new: str, *, current: str = "") -> Json:
        """Another password of one's own; other sessions end."""
        body = {"current_password": current, "new_password": new}
        return self.api.post(f"{BASE}/password", body)

    def teams(self) -> list[Json]:
        """The teams that one is in."""
        return list(self.api.pages(f"{BASE}/teams", "teams"))

    def create_team(self, team: str, *, name: str = "") -> Json:
        """A new team, which one owns; for admins of the organisation."""
        body: Json = {"team_id": team, "request_id": new_uid()}
        return self.api.post(f"{BASE}/teams", {**body, **({"team": {"display_name": name}} if name else {})})

    def team_info(self) -> Json:
        """This team, with its limits and what it holds now."""
        return self.api.get(self._team())

    def set_limits(self, limits: Mapping[str, int]) -> Json:
        """Replaces the team's limits: gpus, cpu_milli, jobs; one that is left out is no limit."""
        return self.api.patch(self._team(), {"limits": dict(limits)})

    def members(self) -> list[Json]:
        """Who is what in the team."""
        return list(self.api.pages(self._team("members"), "memberships"))

    def add_member(self, user: str, role: str) -> Json:
        """Makes somebody a member, by id or e-mail address, whom one can see."""
        named = user if "@" in user or "/" in user else f"users/{user}"
        return self._create({"user": named, "role": role_name(role)}, "members")

    def set_role(self, user: str, role: str) -> Json:
        """Another role in the team."""
        return self.api.post(self._team("members", user) + ":role", {"role": role_name(role)})

    def remove_member(self, user: str) -> Json:
        """Takes somebody, or oneself, out of the team."""
        return self.api.post(self._team("members", user) + ":remove")

    def invite(self, email: str, role: str = "", *, ttl_seconds: int | None = None, user: str = "") -> Json:
        """An invitation with its ``secret``, and the ``link`` with that in it. ``user``: it sets this user's
        password."""
        body: Json = {"email": email, "role": role_name(role) if role else None, "user": user}
        body["ttl"] = None if ttl_seconds is None else f"{ttl_seconds}s"
        made = self._create({key: value for key, value in body.items() if value}, "invitations")
        kind = "setup" if user and not email else "invite"
        return {**made, "link": f"{self.api.url}/#{kind}={made.get('secret', '')}"}

    def invitations(self) -> list[Json]:
        """The team's, newest first, without their secrets."""
        return list(self.api.pages(self._team("invitations"), "invitations"))

    def revoke_invitation(self, invitation: str) -> Json:
        """Makes a link worth nothing."""
        return self.api.post(self._team("invitations", invitation) + ":revoke")

    def share(self, runs: Sequence[str], *, ttl_seconds: int | None = None) -> Json:
        """A read-only link to runs, with its ``secret``, and the ``link`` with that in it."""
        body: Json = {"runs": [bare(run) for run in runs]}
        if ttl_seconds is not None:
            body["ttl"] = f"{ttl_seconds}s"
        made = self._create(body, "shares")
        return {**made, "link": f"{self.api.url}/#share={made.get('secret', '')}"}

    def shares(self) -> list[Json]:
        """The team's links, newest first, without their secrets."""
        return list(self.api.pages(self._team("shares"), "shares"))

    def revoke_share(self, share: str) -> Json:
        """Makes a link show nothing any more."""
        return self.api.post(self._team("shares", share) + ":revoke")

    def add_webhook(
        self, url: str, *, events: Sequence[str] = (), slack: bool = False, name: str = ""
    ) -> Json:
        """Has an address told what happens in the team; ``secret`` signs it, and is shown this once."""
        hook = {
            "url": url,
            "events": list(events),
            "format": "SLACK" if slack else "JSON",
            "display_name": name,
        }
        return self._create({"webhook": hook}, "webhooks")

    def webhooks(self) -> list[Json]:
        """The team's webhooks, without their URLs."""
        return list(self.api.get(self._team("webhooks")).get("webhooks", []))

    def delete_webhook(self, webhook: str) -> Json:
        """Sends nothing there any more."""
        return self.api.post(self._team("webhooks", webhook) + ":delete")

    def webhook_deliveries(self, webhook: str, *, limit: int | None = None) -> list[Json]:
        """What a webhook was told, newest first, and how that went."""
        path = self._team("webhooks", webhook, "deliveries")
        return list(self.api.pages(path, "deliveries", limit=limit))

    def set_secret(self, variable: str, value: str, *, shared: bool = False) -> Json:
        """Keeps a value for one's own jobs, or (``shared``) for all of the team's. It is never shown."""
        return self.api.post(f"{self._secrets(shared)}/{segment(variable)}:set", {"value": value})

    def secrets(self, *, shared: bool = False) -> list[Json]:
        """One's own, or the team's, without their values."""
        return list(self.api.get(self._secrets(shared)).get("secrets", []))

    def delete_secret(self, variable: str, *, shared: bool = False) -> Json:
        """Gives it to no attempt that begins later."""
        return self.api.post(f"{self._secrets(shared)}/{segment(variable)}:delete")

    def _secrets(self, shared: bool) -> str:
        return self._team("secrets") if shared else f"{BASE}/users/me/secrets"

    def audit(
        self, *, every: bool = False, actor: str = "", action: str = "", since: str = "", until: str = "",
        limit: int | None = None,
    ) -> Iterator[Json]:  # fmt: skip
        """Who did what in the team, or (``every``) anywhere, newest first. Times in RFC 3339."""
        query = {"actor": actor, "action": action, "start_time": since, "end_time": until}
        path = f"{BASE}/audit" if every else self._team("audit")
        return self.api.pages(
            path, "entries", {key: value or None for key, value in query.items()}, limit=limit
        )

    def create_account(self, account: str, *, role: str = "member", name: str = "") -> Json:
        """A service account of the team, for programs; viewer or member."""
        body = {"account_id": account, "role": role_name(role), "display_name": name}
        return self._create(body, "accounts")

    def create_account_token(
        self, account: str, *, name: str = "", scope: str = "write", ttl_seconds: int | None = None
    ) -> Json:
        """A token for a service account, with its secret in ``secret``: shown this once."""
        body: Json = {"display_name": name, "scope": f"SCOPE_{scope.upper()}"}
        if ttl_seconds is not None:
            body["ttl"] = f"{ttl_seconds}s"
        body["request_id"] = new_uid()
        return self.api.post(self._team("members", account) + ":token", body)

    def disable_account(self, account: str) -> Json:
        """Ends a service account and its tokens."""
        return self.api.post(self._team("members", account) + ":disable")

    def accept_invitation(self, secret: str, password: str, **fields: Any) -> Json:
        """Comes in by a link: a session with its ``secret``. Needs no token."""
        return self.api.post(f"{BASE}/invitations:accept", {"secret": secret, "password": password, **fields})

    def sign_in(self, email: str, password: str, *, ttl_seconds: int) -> Json:
        """Comes in by password: a session with its ``secret``. Needs no token."""
        body = {"email": email, "password": password, "ttl": f"{ttl_seconds}s"}
        # Being told to wait is the answer: a guess more would not help.
        return self.api.post(f"{BASE}/sessions", body, patience=0)

    def ask_in(self, client: str) -> Json:
        """Begins to wait for somebody to let this program in: ``login`` with its code, and a ``secret``."""
        return self.api.post(f"{BASE}/device-logins", {"client": client})

    def finish_ask(self, secret: str) -> Json:
        """The session, once somebody has said so; `ApiError` with reason LOGIN_PENDING until then."""
        return self.api.post(f"{BASE}/device-logins:finish", {"secret": secret})

    def finish_loopback(self, code: str, *, verifier: str, redirect_uri: str) -> Json:
        """The session, for the code that a browser on this machine has brought."""
        body = {"code": code, "code_verifier": verifier, "redirect_uri": redirect_uri}
        return self.api.post(f"{BASE}/loopback-logins:finish", body, patience=0)

    def tokens(self) -> list[Json]:
        """The caller's tokens, without their secrets."""
        return list(self.api.pages(f"{BASE}/tokens", "tokens"))

    def create_token(self, name: str = "", *, scope: str = "write", ttl_seconds: int | None = None) -> Json:
        """A new token, with its secret in ``secret``: shown this once."""
        body: Json = {"display_name": name, "scope": f"SCOPE_{scope.upper()}", "request_id": new_uid()}
        if ttl_seconds is not None:
            body["ttl"] = f"{ttl_seconds}s"
        return self.api.post(f"{BASE}/tokens", body)

    def revoke_token(self, token: str) -> Json:
        """Revokes a token; felt everywhere within 5 seconds."""
        return self.api.post(f"{BASE}/tokens/{segment(bare(token))}:revoke")


def role_name(role: str) -> str:
    """``member`` as the API has it."""
    return f"ROLE_{role.upper()}"
