"""An attempt's environment, prepared with the attempt's own means; what went wrong is left in its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cairn._runner import compatibility, guard
from cairn._runner.compatibility import Need
from cairn._runner.console import Console
from cairn._runner.environment import BuildFailed, Preparation, Room, Tools
from cairn._runner.folder import End, Folder, Launch
from cairn._runner.machine import look
from cairn._runner.plans import Wanted
from cairn._runner.ranks import CannotStart, Gang, GangEnd
from cairn._runner.shelf import Shelf, Stopped
from cairn._runner.signals import Signals
from cairn._runner.visits import Visits

_GRACE_SECONDS = 5.0


def prepare(
    folder: Folder, launch: Launch, end: End, *, console: Console, signals: Signals,
    variables: Mapping[str, str], spare: int, visits: Visits, begun: Callable[[], object],
) -> Room | None:  # fmt: skip
    """The environment; None: `end` says why there is none.

    `variables` are those of the command; `begun` is called when something runs whose output people may want
    to see; `spare` is a child of this process that stays.
    """

    def run(script: str, given: Mapping[str, str], seconds: float) -> GangEnd:
        gang = Gang(
            console=console, signals=signals, grace=_GRACE_SECONDS, deadline=time.monotonic() + seconds,
            mark=variables[guard.MARK], spare=spare, visits=visits, last=False,
        )  # fmt: skip
        gang.start(script, environments=[given], folder=folder.work)
        begun()
        return gang.wait()

    shelf = Shelf(place_of(launch), most_bytes=launch.environments_bytes, pause=signals.pause)
    preparation = Preparation(
        Wanted.parse(launch.environment or {}),
        work=folder.work,
        scratch=folder.env,
        shelf=shelf,
        tools=Tools(say=console.say, pause=signals.pause, run=run),
        variables=_variables(variables),
        check=lambda lines: _judge(compatibility.asked(lines), variables, console),
    )
    try:
        room = preparation.run()
        _judge(compatibility.installed(room.packages), variables, console)
        return room
    except Stopped:
        end.message = "Stopped while its environment was prepared."
    except (CannotStart, OSError) as error:
        end.message = f"The environment could not be prepared on this machine: {error}."
    except BuildFailed as error:
        end.message, end.last_lines = str(error), error.lines
        # Without an exit code the fault is the place's, as with code that cannot be fetched.
        end.exit_code = None if error.place or error.signal else error.exit_code
        end.signal = error.signal
        end.hopeless = not error.place and not error.signal
    if end.message:
        console.say(end.message)
    return None


def _judge(needs: Sequence[Need], variables: Mapping[str, str], console: Console) -> None:
    """Says what cannot work with this machine's GPUs. Raises BuildFailed for what is certain."""
    gpus = variables.get("SKYPILOT_NUM_GPUS_PER_NODE", "")
    if not needs or not gpus.isdigit() or not int(gpus):
        return
    for finding in compatibility.judge(needs, look(variables), gpus=int(gpus)):
        if finding.refuse:
            raise BuildFailed(finding.told)
        console.say(f"warning: {finding.told}")


def place_of(launch: Launch) -> Path:
    """The folder that launch.json names, else this user's cache."""
    if launch.environments:
        return Path(launch.environments)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "cairn" / "environments"


def _variables(given: Mapping[str, str]) -> dict[str, str]:
    """For the build: nothing that leads pip into another environment, and no token of the run."""
    hidden = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "CAIRN_TOKEN_FILE")
    return {name: value for name, value in given.items() if name not in hidden}
