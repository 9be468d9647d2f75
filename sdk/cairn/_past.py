"""What a run that goes on has behind it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cairn import _local
from cairn._config import ConfigError, load_config
from cairn._http import Api, ApiError, Unreachable

if TYPE_CHECKING:
    from cairn._run import Run

_log = logging.getLogger("cairn")

_SECONDS = 2.0


def go_on(run: Run, asked: Any) -> None:
    """Puts the next step behind what was logged before, or says why this is another run."""
    if run.uid != asked:
        text = f"in a job the run is the job's own, not {asked!r}" if run.job else no_uid(asked)
        run._problem("run", text, ValueError(text))
    elif run.job is None:
        run._next_step = max(run._next_step, next_step(run))


def no_uid(asked: Any) -> str:
    """Why a run cannot be gone on in."""
    return f"run={asked!r} is no run's uid, as `cairn ls --json` and run.uid give it: another run is begun"


def next_step(run: Run) -> int:
    """The step behind the highest that this folder's processes or the server know of the run.

    What the platform measures itself (`system/...`) has seconds for steps, and does not count.
    """
    spools = (folder / "spool" for folder in run.directory.parent.glob(f"{run.uid}*"))
    return max(_local.next_step(*spools), _at_server(run))


def _at_server(run: Run) -> int:
    try:
        config = load_config()
        if not config.url or not config.token:
            return 0
        api = Api(config.url, config.token, timeout=_SECONDS, patience=0.0)
        summary = api.get(f"/api/v1/teams/{run.team}/runs/{run.uid}").get("summary") or {}
    except (ApiError, Unreachable, ConfigError, ValueError) as error:
        # A run that nobody knows yet begins with this process.
        if not isinstance(error, ApiError) or error.status != 404:
            _log.warning("cairn: where run %s stands is not known (%s)", run.uid, error)
        return 0
    own = (told for key, told in summary.items() if not key.startswith(_local.SYSTEM))
    return max((int(told.get("last_step", 0)) + 1 for told in own), default=0)
