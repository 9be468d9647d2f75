"""`cairn user`, `team`, `token`, `account`, `login` and `whoami` as people type them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from tests.harness.entry import PASSWORD, Place, entry
from tests.harness.gateway import bearer


@pytest_asyncio.fixture
async def place(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with entry(
        postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path, data_dir=tmp_path
    ) as made:
        yield made


def token_in(config: Path) -> str:
    return str(json.loads(config.read_text())["token"])


async def test_an_admin_makes_a_team_and_somebody_comes_into_it(place: Place, tmp_path: Path) -> None:
    admin, ada = tmp_path / "admin.json", tmp_path / "ada.json"
    url = str(place.http.base_url).rstrip("/")
    await place.cairn("login", url, config=admin, stdin=place.quota.tokens.admin)
    await place.cairn("team", "create", "vision", "--name", "Vision lab", config=admin)
    assert "Vision lab" in await place.cairn("team", "ls", config=admin)
    told = await place.cairn("user", "invite", "ada@lab.example", "--team", "vision", config=admin)
    link = told.strip()
    assert re.fullmatch(re.escape(url) + r"/#invite=cairn_invite_[\w-]+", link)
    weak = await place.cairn("login", "--invite", link, config=ada, stdin="short", fails=True)
    assert "password: must have 10 to 256 characters" in weak
    assert "ada at" in await place.cairn("login", "--invite", link, config=ada, stdin=PASSWORD)
    assert ada.stat().st_mode & 0o777 == 0o600
    assert "not good" in await place.cairn("login", "--invite", link, config=ada, stdin=PASSWORD, fails=True)
    assert "* vision  member" in await place.cairn("whoami", config=ada)
    refused = await place.cairn("team", "role", "ada", "admin", config=ada, fails=True)
    assert "needs role admin in team vision; you are member" in refused
    await place.cairn("team", "role", "ada", "admin", "--team", "vision", config=admin)
    assert "* vision  admin" in await place.cairn("whoami", config=ada)
    listed = json.loads(await place.cairn("user", "ls", "--json", config=ada))
    assert {one["user"]: one["role"] for one in listed} == {
        "users/admin": "ROLE_OWNER",
        "users/ada": "ROLE_ADMIN",
    }
    # By password from another machine, and no more once an admin says so.
    other = tmp_path / "other.json"
    await place.cairn("login", url, "--email", "ada@lab.example", config=other, stdin=PASSWORD)
    wrong = await place.cairn(
        "login", url, "--email", "ada@lab.example", config=other, stdin="not it at all", fails=True
    )
    assert "do not go together" in wrong
    assert PASSWORD not in wrong
    noted = await place.cairn("audit", "--team", "vision", "--action", "member.", config=admin)
    assert "member.added" in noted
    assert "before member, role admin" in noted
    await place.cairn("user", "disable", "ada", config=admin)
    assert "revoked" in await place.cairn("whoami", config=other, fails=True)


async def test_programs_have_accounts_and_people_have_tokens_of_their_own(
    place: Place, tmp_path: Path
) -> None:
    admin, program = tmp_path / "admin.json", tmp_path / "program.json"
    url = str(place.http.base_url)
    await place.cairn("login", url, config=admin, stdin=place.quota.tokens.admin)
    secret = await place.cairn("account", "create", "ci", "--expires", "90d", config=admin)
    await place.cairn("login", url, config=program, stdin=secret)
    assert "by a token of scope write" in await place.cairn("whoami", config=program)
    assert "service account" in await place.cairn("user", "ls", config=admin)
    await place.cairn("account", "rm", "ci", config=admin)
    assert "revoked" in await place.cairn("whoami", config=program, fails=True)
    reader = (
        await place.cairn("token", "create", "--scope", "read", "--expires", "30d", config=admin)
    ).strip()
    assert (await place.http.get("/api/v1/me", headers=bearer(reader))).json()["scope"] == "SCOPE_READ"
    listed = await place.cairn("token", "ls", config=admin)
    # To the second in whose middle it was made.
    assert "valid for 30d" in listed or "valid for 29d 23h" in listed


async def test_a_command_line_is_let_in_by_a_browser(place: Place, tmp_path: Path) -> None:
    config, url = tmp_path / "device.json", str(place.http.base_url)
    ada = bearer((await place.member("ada.device@lab.example"))["secret"])
    waiting = asyncio.create_task(place.cairn("login", url, "--device", config=config))
    async with asyncio.timeout(30):
        while not (code := await place.quota.db.fetchval("SELECT code FROM device_logins")):
            await asyncio.sleep(0.05)
    assert (await place.http.post(f"/api/v1/device-logins/{code}:approve", headers=ada)).status_code == 200
    assert "ada-device at" in await waiting
    assert (await place.http.get("/api/v1/me", headers=bearer(token_in(config)))).status_code == 200


async def test_secrets_are_kept_from_stdin_and_never_shown(place: Place, tmp_path: Path) -> None:
    config, url, value = tmp_path / "ada.json", str(place.http.base_url).rstrip("/"), "hf_q1w2e3r4"
    token = (await place.member("ada.secret@lab.example"))["secret"]
    config.write_text(json.dumps({"url": url, "token": token, "team": "main"}))
    config.chmod(0o600)
    kept = await place.cairn("secret", "set", "HF_TOKEN", config=config, stdin=value + "\n")
    assert "HF_TOKEN is kept for you" in kept
    await place.http.post(
        "/api/v1/teams/main/secrets/HF_TOKEN:set",
        json={"value": value},
        headers=bearer(place.quota.tokens.admin),
    )
    shown = await place.cairn("secret", "ls", config=config)
    assert re.findall(r"HF_TOKEN +(you|teams/main) +(\S+) .* never", shown) == [
        ("you", "ada-secret"), ("teams/main", "admin"),
    ]  # fmt: skip
    assert value not in kept + shown
