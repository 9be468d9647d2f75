"""``cairn demo``: the command line around the story."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console

from cairn._code import pack
from cairn._http import ApiError, Unreachable
from cairn.client import Client
from cairn_server.demo.screen import Silent, Terminal, print_outcome
from cairn_server.demo.script import DemoFailed, Outcome, play, training_folder

DATASET = "digits-data"
NEEDED = {"torch": "torch", "sklearn": "scikit-learn"}


@click.command()
@click.option("--data", "home", default=None, help="Data folder of the platform, as for `cairn up`.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON object on stdout.")
def demo(home: str | None, as_json: bool) -> None:
    """Four real trainings, one of them killed on the way, and what came of it.

    Starts the platform if it does not run. Exit code 0 only if everything that the demo promises held.
    """
    if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
        raise click.ClickException(
            f"the demo trains with {' and '.join(missing)}: pip install {' '.join(missing)}"
        )
    console = Console(stderr=True, quiet=as_json)
    client = bring_up(home, console)
    try:
        outcome = run_story(client, console, quiet=as_json)
    except (DemoFailed, ApiError, Unreachable) as error:
        raise click.ClickException(f"the demo did not hold: {error}") from error
    if as_json:
        click.echo(json.dumps(facts_of(outcome, client.url)))
    else:
        print_outcome(Console(), outcome, client.url)
    for fault in outcome.faults if as_json else []:
        click.echo(f"not as promised: {fault}", err=True)
    sys.exit(1 if outcome.faults else 0)


def run_story(client: Client, console: Console, *, quiet: bool) -> Outcome:
    """Queues the sweep and plays the story on a terminal or in silence."""
    console.print("[green]●[/] keeping the digits as dataset, and queueing four trainings, two at a time")
    keep_dataset(client)
    sweep = submit(client)
    if quiet:
        return play(client, sweep, Silent())
    with Terminal(console) as screen:
        return play(client, sweep, screen)


def keep_dataset(client: Client) -> None:
    """Makes scikit-learn's digits a dataset version, so that the model's lineage reaches its data."""
    content = files("sklearn.datasets.data").joinpath("digits.csv.gz").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.csv.gz"
        path.write_bytes(content)
        rows = gzip.decompress(content).count(b"\n")
        client.publish(path, DATASET, kind="dataset", metadata={"rows": rows, "source": "scikit-learn"})


def submit(client: Client) -> dict[str, Any]:
    """Queues the sweep, each training sized to half of this machine, so that two run at a time."""
    task = yaml.safe_load((training_folder() / "task.yaml").read_text())
    local = next(pool for pool in client.pools() if pool["name"] == "pools/local")
    task["resources"]["cpus"] = local["capacity"]["cpu_milli"] // 2 / 1000
    bundle = pack(training_folder())
    try:
        code = client.upload_code(bundle)
    finally:
        bundle.path.unlink()
    return client.submit_sweep(yaml.safe_dump(task, sort_keys=False), code=code)


def bring_up(home: str | None, console: Console) -> Client:
    """A client of the running platform, which is started first if it does not run."""
    from cairn_server.home import Home, locate, read_json
    from cairn_server.status import read

    console.print("[green]●[/] starting the platform, or finding it running")
    folder = Home(locate(home, os.environ))
    if not read(folder.root).ready:
        command = [sys.executable, "-m", "cairn_server", "up", "--detach", "--data", str(folder.root)]
        started = subprocess.run(command, stdout=sys.stderr, timeout=180)
        if started.returncode != 0:
            raise click.ClickException("the platform did not start; what it said is above")
    url = read_json(folder.state)["url"]
    token = read_json(folder.secrets)["admin_token"]
    return Client(url, token, "main", patience=120.0)


def facts_of(outcome: Outcome, url: str) -> dict[str, Any]:
    """The object that ``--json`` prints."""
    return {
        "jobs": outcome.jobs,
        "model": {
            "name": outcome.model["name"].split("/")[3],
            "version": outcome.model["version"],
            "alias": "best",
        },
        "url": url,
    }
