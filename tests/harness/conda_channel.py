"""A conda channel in a folder, with a Python that is this machine's."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pip

VERSION = ".".join(map(str, sys.version_info[:3]))
_SUBDIR = f"linux-{'64' if platform.machine() == 'x86_64' else platform.machine()}"


class Channel:
    """Packages for any machine (`noarch`), as `file://` shows them."""

    def __init__(self, folder: Path) -> None:
        self._packages: dict[str, object] = {}
        self._folder = folder
        self.url = f"file://{folder}"
        self._write()

    def add(
        self, name: str, version: str, files: Mapping[str, str], *, depends: Sequence[str] = (),
        python: bool = False,
    ) -> None:  # fmt: skip
        """A package with these texts; of a `python` one those in `site-packages/` go to the environment's."""
        index = {
            "name": name, "version": version, "build": "0", "build_number": 0, "depends": list(depends),
            "noarch": "python" if python else "generic", "subdir": "noarch",
        }  # fmt: skip
        paths = [
            {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(text.encode()).hexdigest(),
             "size_in_bytes": len(text.encode())}
            for path, text in files.items()
        ]  # fmt: skip
        content = {**files, "info/index.json": json.dumps(index), "info/files": "\n".join(files),
                   "info/paths.json": json.dumps({"paths": paths, "paths_version": 1})}  # fmt: skip
        if python:
            content["info/link.json"] = json.dumps(
                {"noarch": {"type": "python"}, "package_metadata_version": 1}
            )
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:bz2") as packed:
            for path, text in content.items():
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(text.encode()), 0o755 if path.startswith("bin/") else 0o644
                packed.addfile(member, io.BytesIO(text.encode()))
        file, data = f"{name}-{version}-0.tar.bz2", archive.getvalue()
        (self._folder / "noarch" / file).write_bytes(data)
        self._packages[file] = {
            **index, "md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }  # fmt: skip
        self._write()

    def add_python(self) -> None:
        """`python`: this machine's, at home in the environment; and `pip`, the one beside the tests."""
        base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        self.add("python", VERSION, {
            "bin/python": f'#!/bin/bash\nexec -a "$0" {base} "$@"\n',
            "pyvenv.cfg": f"home = {os.path.dirname(base)}\nversion = {VERSION}\n",
        })  # fmt: skip
        text = f"__path__ = [{os.path.dirname(pip.__file__)!r}]\n__version__ = {pip.__version__!r}\n"
        self.add("pip", "99.0", {"site-packages/pip/__init__.py": text}, depends=["python"], python=True)

    def _write(self) -> None:
        for subdir, packages in (("noarch", self._packages), (_SUBDIR, {})):
            (self._folder / subdir).mkdir(parents=True, exist_ok=True)
            content = {"info": {"subdir": subdir}, "packages": packages, "repodata_version": 1}
            (self._folder / subdir / "repodata.json").write_text(json.dumps(content))
