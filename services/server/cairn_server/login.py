"""The command line's login, so that `cairn ls` works right after `cairn up`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from cairn._http import ApiError, Unreachable
from cairn.client import Client
from cairn_server.backends.program import SetupError
from cairn_server.home import read_json, write_private

SETTING = "CAIRN_CONFIG"
_SETUP_SECONDS = 86400


def path(env: Mapping[str, str]) -> Path:
    """CAIRN_CONFIG, else ~/.config/cairn/config.json."""
    if env.get(SETTING):
        return Path(env[SETTING]).expanduser()
    return Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "cairn" / "config.json"


def write(file: Path, *, url: str, token: str) -> str | None:
    """Writes the login (0600); returns a sentence for the person where it was left as it is.

    A login for another URL is never overwritten.
    """
    kept = read_json(file)
    if kept.get("url") not in (None, url) and kept.get("token") != token:
        return (
            f"{file} holds a login for {kept['url']} and was left alone; to use this one: cairn login {url}"
        )
    if (kept.get("url"), kept.get("token")) == (url, token):
        return None
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(file, json.dumps({"team": "main", **kept, "url": url, "token": token}, indent=1))
    except (OSError, SetupError) as error:
        return f"the login could not be written to {file} ({error}); to log in: cairn login {url}"
    os.chmod(file, 0o600)
    return None


def setup_link(url: str, token: str) -> str | None:
    """A link by which the first admin sets a password; None where there is one, or nobody answers now.

    Earlier links are worth nothing then.
    """
    client = Client(url, token, "main", patience=10.0)
    try:
        if client.user().get("has_password"):
            return None
        return str(client.invite("", user="users/me", ttl_seconds=_SETUP_SECONDS)["link"])
    except (ApiError, Unreachable):
        return None  # the token that is printed beside it opens everything, too
