"""PostgreSQL refuses to run as root: which account it runs as instead, and what that account can reach."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cairn_server.backends.program import Account, SetupError

SETTING = "CAIRN_PG_USER"
_USUAL = ("postgres", "nobody")


def choose(env: Mapping[str, str]) -> Account | None:
    """The account to drop to: None unless we are root. No account is ever created.

    Raises `SetupError` where the named one does not exist, or there is none.
    """
    if os.geteuid() != 0:
        return None
    named = env.get(SETTING)
    for name in (named,) if named else _USUAL:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise SetupError(f"{SETTING}={name} is root, and PostgreSQL refuses that; name another account")
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    if named:
        raise SetupError(f"{SETTING}={named}: there is no such account on this machine")
    raise SetupError(f"PostgreSQL cannot run as root: set {SETTING} to an unprivileged account that exists")


def reaches(account: Account | None, path: Path) -> bool:
    """True where `account` can enter and read `path`. It is tried: modes do not tell all."""
    if account is None:
        return os.access(path, os.R_OK | os.X_OK)
    tried = subprocess.run(
        ["/bin/sh", "-c", 'test -r "$1" && test -x "$1"', "sh", str(path)],
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        cwd="/",
        check=False,
        timeout=10,
    )
    return tried.returncode == 0
