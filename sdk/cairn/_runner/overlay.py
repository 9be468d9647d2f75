"""An attempt's own environment on top of a shared one: what `setup` installs stays with the attempt.

It is a virtual environment made by hand, in a few milliseconds: the shared one's packages are seen through a
.pth file, its scripts are copied with another first line. The SDK is seen through it, too, and nothing else
of what the runner itself has.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Linux reads no more of a script's first line, on older kernels.
_LONGEST_SHEBANG = 120
_OWN = frozenset({"bin", "lib", "lib64", "pyvenv.cfg", "cairn-complete.json", "conda-meta"})


def lay(shared: Path, target: Path) -> None:
    """Makes `target` an environment on top of the virtual environment `shared`. Raises OSError."""
    site = site_packages(shared)
    if target.exists():
        shutil.rmtree(target)
    own_site = target / site.relative_to(shared)
    own_site.mkdir(mode=0o700, parents=True)
    os.symlink("lib", target / "lib64")
    shutil.copyfile(shared / "pyvenv.cfg", target / "pyvenv.cfg")
    sdk = target / "cairn-sdk"
    expose_sdk(sdk)
    (own_site / "_cairn.pth").write_text(f"import site; site.addsitedir({str(site)!r})\n{sdk}\n")
    _scripts(shared, target)
    for entry in os.scandir(shared):
        if entry.name not in _OWN and not entry.name.startswith("."):
            os.symlink(entry.path, target / entry.name)


def expose_sdk(folder: Path) -> None:
    """Makes `folder` one that holds this SDK's package alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    link = folder / "cairn"
    if not link.is_symlink():
        os.symlink(Path(__file__).resolve().parents[1], link)


def site_packages(environment: Path) -> Path:
    """Raises OSError where it is no virtual environment."""
    for found in sorted(environment.glob("lib/python3*/site-packages")):
        return found
    raise FileNotFoundError(f"{environment} is no Python environment: it has no site-packages")


def _scripts(shared: Path, target: Path) -> None:
    folder = target / "bin"
    folder.mkdir(mode=0o700)
    for entry in os.scandir(shared / "bin"):
        own = folder / entry.name
        if entry.is_symlink() or entry.name.startswith("python"):
            os.symlink(_resolved(shared, Path(entry.path)), own)
        elif entry.is_file() and (text := _script(Path(entry.path), shared)) is not None:
            own.write_bytes(_moved(text, str(shared), str(target)))
            own.chmod(0o700)
        else:
            os.symlink(entry.path, own)


def _resolved(shared: Path, link: Path) -> str:
    """Where a link leads; the interpreter's links lead out of the shared environment, or to each other."""
    for _ in range(10):
        if not link.is_symlink():
            break
        to = Path(os.readlink(link))
        link = to if to.is_absolute() else link.parent / to
        if not link.is_relative_to(shared):
            break
    return str(link)


def _script(path: Path, shared: Path) -> bytes | None:
    """The text of a script that names the shared environment in its head; None: it is none."""
    try:
        if path.stat().st_size > 1024 * 1024:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    is_script = content.startswith(b"#!") or path.name.lower().startswith("activate")
    return content if is_script and os.fsencode(shared) in content else None


def _moved(content: bytes, old: str, new: str) -> bytes:
    first, _, rest = content.partition(b"\n")
    if first.startswith(b"#!"):
        words = first[2:].decode(errors="surrogateescape").strip().replace(old, new, 1)
        line = f"#!{words}"
        if len(line) > _LONGEST_SHEBANG:
            # sh reads the second line as a command; Python reads lines two and three as a text.
            line = f"#!/bin/sh\n'''exec' {words} \"$0\" \"$@\"\n' '''"
        first = os.fsencode(line)
    return first + b"\n" + rest.replace(os.fsencode(old), os.fsencode(new))
