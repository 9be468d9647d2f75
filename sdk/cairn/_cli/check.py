"""`cairn check`: where jobs can run, and what is wrong where they cannot."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import click
from rich.text import Text

from cairn._cli.errors import FAILED, NOT_FOUND, CliError
from cairn._cli.looks import plain_table
from cairn._cli.probe import probe, say_probe
from cairn._cli.session import Session, common
from cairn._cli.text import clean, moment, span
from cairn._http import Json

# SkyPilot asks each provider; those behind a firewall that drops packets take their time.
_PATIENCE = 150.0
_SIGNS = {"ENABLED": ("✓", "green"), "UNREACHABLE": ("✗", "red"), "DISABLED": ("·", "dim")}


@click.command(short_help="Show where jobs can run, and why not.")
@click.argument("infra", required=False, default="")
@click.option("--deep", metavar="INFRA", default="", help="Run a small job there, step by step.")
@click.option("--refresh", is_flag=True, help="Ask anew, also what was asked less than a minute ago.")
@click.option("--timeout", type=click.FloatRange(10, 3600), default=600, help="Seconds for --deep.")
@common
@click.pass_context
def check(
    ctx: click.Context, /, session: Session, infra: str, deep: str, refresh: bool, timeout: float
) -> None:
    """Show where jobs can run: GPUs, prices per hour, and what is wrong where they cannot.

    \b
    cairn check                     this machine, and all that SkyPilot reaches
    cairn check slurm/lab           that one alone
    cairn check --deep slurm/lab    a real job there, end to end

    Exits with 1 where what is set up does not answer, where INFRA cannot be used, or where the job of --deep
    does not go through.
    """
    if deep:
        result = probe(session, deep, timeout=timeout)
        session.emit(result) if session.as_json else say_probe(session, result)
        ctx.exit(0 if result["ok"] else FAILED)
    found = _ask(session, refresh=refresh)
    chosen = _chosen(found["infras"], infra)
    if session.as_json:
        session.emit({**found, "infras": chosen})
    else:
        _say(session, chosen, complete=bool(found.get("complete")))
    ctx.exit(0 if _good(chosen, infra) else FAILED)


def _ask(session: Session, *, refresh: bool) -> Json:
    """Asks until all have answered, for two minutes at most."""
    began = time.monotonic()
    with session.err.status("asking") as status:
        found = session.client.infras(refresh=refresh)
        while not found.get("complete") and time.monotonic() - began < _PATIENCE:
            status.update(f"SkyPilot is asking each provider ({time.monotonic() - began:.0f} s)")
            found = session.client.infras()
    return found


def _chosen(infras: list[Json], wanted: str) -> list[Json]:
    if not wanted:
        return infras
    chosen = [one for one in infras if _name(one) == wanted or _name(one).startswith(f"{wanted}/")]
    if not chosen:
        names = ", ".join(_name(one) for one in infras if one["state"] != "DISABLED")
        raise CliError(f"there is no infra {wanted}; there are {names}", code=NOT_FOUND)
    return chosen


def _good(infras: list[Json], wanted: str) -> bool:
    if wanted:
        return any(one["state"] == "ENABLED" for one in infras)
    return all(one["state"] != "UNREACHABLE" for one in infras)


def _say(session: Session, infras: list[Json], *, complete: bool) -> None:
    there = [one for one in infras if one["state"] != "DISABLED"]
    if there:
        table = plain_table()
        for title in ("INFRA", "GPUS FREE", "$/GPU·H", "SPOT", "CPUS FREE", "NODES"):
            table.add_column(title, no_wrap=True, justify="left" if title == "INFRA" else "right")
        for one in there:
            _rows(table, one)
        session.out.print(table)
    for one in infras:
        if one.get("problem"):
            _say_problem(session, one)
        for circuit in one.get("circuits") or []:
            _say_circuit(session, circuit)
    if not complete:
        session.say(Text("some are still being asked; run it again for them", style="yellow"))


def _rows(table: Any, infra: Json) -> None:
    """One row an accelerator; the first has what is the place's."""
    sign, style = _SIGNS[infra["state"]]
    first = Text(f"{sign} ", style=style).append(clean(_name(infra)), "default")
    beside = [_of(infra.get("free_cpu_milli"), infra.get("cpu_milli"), 1000), _plain(infra.get("nodes"))]
    kinds: Iterable[Json] = infra.get("accelerators") or [{}]
    for one in kinds:
        free = _of(one.get("free"), one.get("total"), 1) if "total" in one else _counts(one)
        kind = clean(str(one.get("kind", "")))
        table.add_row(
            first, f"{kind} {free}".strip(), _money(one.get("price")), _money(one.get("spot_price")), *beside
        )
        first, beside = Text(""), ["", ""]


def _say_problem(session: Session, infra: Json) -> None:
    sign, style = _SIGNS[infra["state"]]
    if infra["state"] == "ENABLED":
        sign, style = "!", "yellow"
    line = Text(f"{sign} ", style=style).append(f"{clean(_name(infra))}: ", "bold default")
    session.out.print(line.append(clean(str(infra["problem"])), "default"), soft_wrap=True)
    if infra.get("remedy"):
        session.out.print(Text(f"    → {clean(str(infra['remedy']))}", style="dim"), soft_wrap=True)


def _say_circuit(session: Session, circuit: Json) -> None:
    left = (moment(circuit.get("next_try_time")) or 0.0) - time.time()
    then = f"it is tried again in {span(left)}" if left > 0 else "it is tried again with the next job for it"
    line = Text("! ", style="yellow").append(f"{clean(str(circuit.get('name')))}: ", "bold default")
    session.out.print(line.append(f"there was no room; {then}", "default"), soft_wrap=True)


def _name(infra: Json) -> str:
    return str(infra.get("name", "")).removeprefix("infras/")


def _of(free: Any, total: Any, unit: int) -> str:
    if total is None:
        return ""
    return f"{int(total) / unit:g}" if free is None else f"{int(free) / unit:g} of {int(total) / unit:g}"


def _counts(accelerator: Json) -> str:
    counts = [int(count) for count in accelerator.get("counts") or []]
    return f"up to {max(counts)} a node" if counts else ""


def _money(value: Any) -> str:
    return "" if value is None else f"{float(value):.2f}"


def _plain(value: Any) -> str:
    return "" if value is None else str(value)
