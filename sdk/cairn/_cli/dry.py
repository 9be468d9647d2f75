"""`cairn run --dry-run`: what would be queued, where it would go and when, and what an hour costs."""

from __future__ import annotations

from rich.text import Text

from cairn._cli.looks import plain_table
from cairn._cli.session import Session
from cairn._cli.tasks import Task
from cairn._cli.text import clean, plain
from cairn._cli.why import say_why
from cairn._http import Json


def say_dry(session: Session, order: Task, made: Json) -> None:
    """The jobs with what they need, then the places in the order in which they are tried."""
    jobs = made.get("jobs") if order.sweep else [made]
    for job in jobs or []:
        spec = job.get("spec", {})
        resources = spec.get("resources", {})
        facts = [f"{int(resources.get('cpu_milli', 1000)) / 1000:g} CPUs"]
        if resources.get("gpus"):
            facts.append(f"{resources['gpus']} {clean(str(resources.get('accelerator') or 'GPU'))}")
        facts += [f"{clean(key)}={plain(value)}" for key, value in spec.get("params", {}).items()]
        session.out.print(
            Text("✓ good  ", "green")
            .append(f"{clean(str(job.get('display_name') or order.name))}  ", "bold default")
            .append(", ".join(facts), "default")
        )
    _say_places(session, made.get("placements") or [])
    if outlook := made.get("outlook"):
        if order.sweep:
            session.out.print("The first of them:")
        say_why(session, outlook)
    session.say("nothing was queued (--dry-run)")


def _say_places(session: Session, places: list[Json]) -> None:
    if not places:
        return
    table = plain_table()
    for title in ("", "WHERE", "MACHINE", "NODES", "GPUS", "CPUS", "MEMORY", "$/H"):
        table.add_column(
            title, no_wrap=True, justify="left" if title in ("", "WHERE", "MACHINE") else "right"
        )
    for number, place in enumerate(places):
        cpus, memory, price = place.get("cpu_milli"), place.get("memory_gib"), place.get("price")
        table.add_row(
            Text("→" if number == 0 else "", "green"),
            clean(str(place.get("infra", ""))) + (" (spot)" if place.get("spot") else ""),
            clean(str(place.get("instance") or "-")),
            str(place.get("num_nodes", 1)),
            clean(str(place.get("accelerators") or "-")),
            "-" if cpus is None else f"{int(cpus) / 1000:g}",
            "-" if memory is None else f"{float(memory):g} GiB",
            "-" if price is None else f"{float(price):.2f}",
        )
    session.out.print(table)
    if len(places) > 1:
        session.out.print(Text("→ is tried first, the others where it has no room", "dim"))
