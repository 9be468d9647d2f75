"""Becomes another program: private mount, lower privileges, death with the parent, then exec.

A file of its own, run as `python -I -S launch.py <json>`, because these steps belong between fork and exec,
where a program with threads must not run Python. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1
REFUSED = 77


def main(text: str) -> None:
    """Execs what `text` describes; ends with code 77 and one line on stderr where that is not permitted."""
    spec: dict[str, Any] = json.loads(text)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if spec["bind"]:
            _bind(libc, *spec["bind"])
        if spec["account"]:
            _become(*spec["account"])
        os.chdir(spec["cwd"])
        os.umask(0o077)
        if spec["parent"]:
            # After the change of user, which clears it.
            _check(libc.prctl(_PR_SET_PDEATHSIG, spec["signal"], 0, 0, 0), "prctl")
            if os.getppid() != spec["parent"]:
                sys.exit(REFUSED)  # the parent died before it could be watched
        os.execve(spec["argv"][0], spec["argv"], os.environ)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"cannot start {spec['argv'][0]}: {error}\n")
        sys.exit(REFUSED)


def _bind(libc: ctypes.CDLL, source: str, target: str) -> None:
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
    flags = _MS_BIND | _MS_REC
    _check(libc.mount(source.encode(), target.encode(), None, flags, None), f"mount --bind on {target}")


def _become(name: str, uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.environ.update(USER=name, LOGNAME=name)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1])
