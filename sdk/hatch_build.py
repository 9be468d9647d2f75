"""Build hook: turns ``proto/`` into ``cairn/<service>/v1/*_pb2*.py`` before a wheel or editable install.

Proto path equals import path, so nothing that protoc writes has to be rewritten. From an sdist, where
``proto/`` is not at hand, the code that the sdist carries is used as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Generates messages, stubs and type stubs for every file below ``proto/``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = Path(self.root)
        source = target.parent / "proto"
        if not source.is_dir():
            return
        files = sorted(str(path.relative_to(source)) for path in source.rglob("*.proto"))
        self._compile(source, target, files)
        for folder in {(target / name).parent for name in files}:
            for package in (folder, folder.parent):
                (package / "__init__.py").touch()

    def _compile(self, source: Path, target: Path, files: list[str]) -> None:
        import grpc_tools

        well_known = Path(grpc_tools.__file__).parent / "_proto"
        # The plugins live beside the interpreter of the isolated build environment.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"-I{source}",
                f"-I{well_known}",
                f"--python_out={target}",
                f"--grpc_python_out={target}",
                f"--mypy_out=quiet:{target}",
                f"--mypy_grpc_out=quiet:{target}",
                *files,
            ],
            check=True,
            env=dict(os.environ, PATH=path),
        )
