"""The params of a run as its program sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self


class Config(dict[str, Any]):
    """The run's params, by item or by attribute. What is set is recorded, at any time."""

    __slots__ = ("_tell",)

    def __init__(
        self, params: Mapping[str, Any] | None = None, tell: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        super().__init__(params or {})
        object.__setattr__(self, "_tell", tell)

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dict; all that is set is recorded together."""
        added = dict(*args, **kwargs)
        super().update(added)
        if self._tell is not None and added:
            self._tell(added)

    def setdefault(self, name: str, value: Any = None) -> Any:
        if name not in self:
            self[name] = value
        return self[name]

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies are values, and belong to no run."""
        return Config, (dict(self),)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None
