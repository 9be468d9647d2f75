"""The runner as something to send: the installed SDK in one archive, named by its content."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

_DISTRIBUTION = "cairn-sdk"
_SAME_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Tool:
    """`archive`: a zip of the package; `needs`: what pip has to install beside it."""

    digest: str
    needs: tuple[str, ...]
    archive: bytes = field(repr=False)


def pack() -> Tool:
    """Packs the SDK that is installed here. Takes about 0.2 s. Raises ModuleNotFoundError."""
    spec = importlib.util.find_spec("cairn")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the SDK (package cairn) is not installed beside the scheduler")
    root = Path(next(iter(spec.submodule_search_locations)))
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in _sources(root):
            name = zipfile.ZipInfo(str(path.relative_to(root.parent)), _SAME_DATE)
            name.external_attr = 0o644 << 16
            archive.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    needs = tuple(need for need in metadata.requires(_DISTRIBUTION) or () if "extra ==" not in need)
    content = held.getvalue()
    digest = hashlib.sha256(content + repr(needs).encode()).hexdigest()[:16]
    return Tool(digest, needs, content)


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.suffix == ".py" or path.name == "py.typed":
            yield path
