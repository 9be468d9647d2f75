"""`cairn models`"""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from cairn._cli.errors import NOT_FOUND, USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.results import exactly, latest_of_each, metrics_line, metrics_of, others, ref_of, split
from cairn._cli.session import Session, common
from cairn._cli.summary import code_text, origin_text, params_text
from cairn._cli.text import age, clean, digits, moment, number, plain, size
from cairn._http import ApiError, Json

_MOST = 500
_SMALLER = ("loss", "error", "perplexity")


@click.group()
def models() -> None:
    """Models that runs made: where each comes from, which one is live, and who said so."""


@models.command("ls")
@click.argument("name", required=False)
@common
def models_ls(session: Session, name: str | None) -> None:
    """List models by their newest versions, or the versions of one."""
    found = (
        list(session.client.versions(name, limit=_MOST))
        if name
        else latest_of_each(list(session.client.versions_of_kind("model", limit=_MOST)))
    )
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say("there are none yet; cairn.save_model makes one")
        return
    table = plain_table()
    for title in ("MODEL", "ALIASES", "FRAMEWORK", "METRICS", "SIZE", "FROM RUN", "AGE"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("SIZE", "AGE") else "left")
    for each in found:
        table.add_row(
            Text(ref_of(each.get("name")), "cyan"),
            others(each.get("aliases", [])),
            Text(clean(str((each.get("metadata") or {}).get("framework") or "-"))),
            metrics_line(metrics_of(each)),
            Text(size(float(each.get("size") or 0))),
            Text(ref_of(each.get("run"))[:12] or "-"),
            Text(age(moment(each.get("create_time")))),
        )
    session.out.print(table)


@models.command("show")
@click.argument("ref", metavar="NAME[:VERSION]")
@common
def models_show(session: Session, ref: str) -> None:
    """Show one version: its metrics, and the code, data and environment that it comes from."""
    name, which = split(ref)
    version = session.client.version(name, which)
    lineage = session.client.lineage(name, which)
    run = _run(session, str(version.get("run") or ""))
    if session.as_json:
        session.emit({"version": version, "lineage": lineage, "run": run})
        return
    about, out = version.get("metadata") or {}, session.out
    head = Text(ref_of(version.get("name")), "bold cyan").append("  ").append_text(others(version["aliases"]))
    out.print(head)
    facts = Text("  ")
    for label, value in (
        ("framework", about.get("framework")), ("size", size(float(version.get("size") or 0))),
        ("by", ref_of(version.get("creator"))), ("digest", str(version.get("digest", ""))[:12]),
    ):  # fmt: skip
        facts.append(f"{label} ", "dim").append(f"{clean(str(value or '-'))}   ", "default")
    out.print(facts)
    if measured := metrics_of(version):
        out.print(Text("  ").append_text(metrics_line(measured, 10)))
    for title, names in (("made from", lineage.get("inputs", [])), ("read by", lineage.get("used_by", []))):
        if names:
            out.print(Text(f"  {title} ", "dim").append(", ".join(map(ref_of, names)), "not dim"))
    if run:
        _print_run(session, run)


@models.command("promote")
@click.argument("ref", metavar="NAME:VERSION")
@click.option("--to", "alias", required=True, metavar="ALIAS", help="Such as production.")
@click.option("-m", "--message", default="", metavar="TEXT", help="Why, for people who look.")
@common
def models_promote(session: Session, ref: str, alias: str, message: str) -> None:
    """Let an alias name a version; where the team wants it, once a second person has approved."""
    name, which = exactly(ref)
    _say(session, session.client.promote(name, which, alias, note=message))


@models.command("promotions")
@click.option("-a", "--all", "every", is_flag=True, help="Also those that were decided.")
@common
def models_promotions(session: Session, every: bool) -> None:
    """List what waits for approval."""
    found = list(session.client.promotions(state="" if every else "PENDING", limit=_MOST))
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say("nothing waits for approval" if not every else "there was none yet")
        return
    table = plain_table()
    for title in ("ID", "VERSION", "TO", "STATE", "BY", "DECIDED BY", "WHY", "AGE"):
        table.add_column(title, no_wrap=True, justify="right" if title == "AGE" else "left")
    for each in found:
        table.add_row(
            Text(str(each.get("uid"))[:18], "cyan"),
            Text(ref_of(each.get("version"))),
            Text(clean(str(each.get("alias"))), "green"),
            Text(str(each.get("state", "")).lower()),
            Text(ref_of(each.get("requester"))),
            Text(ref_of(each.get("decider")) or "-"),
            Text(clean(str(each.get("note") or ""))),
            Text(age(moment(each.get("create_time")))),
        )
    session.out.print(table)


@models.command("approve")
@click.argument("promotion", metavar="ID")
@click.option("-m", "--message", default="", metavar="TEXT", help="For people who look.")
@common
def models_approve(session: Session, promotion: str, message: str) -> None:
    """Approve what somebody else asked for (admins): the alias moves."""
    _say(session, session.client.approve(_promotion(session, promotion), note=message))


@models.command("reject")
@click.argument("promotion", metavar="ID")
@click.option("-m", "--message", default="", metavar="TEXT", help="For people who look.")
@common
def models_reject(session: Session, promotion: str, message: str) -> None:
    """Refuse what waits for approval, or take your own wish back."""
    _say(session, session.client.reject(_promotion(session, promotion), note=message))


@models.command("rules")
@click.argument("aliases", nargs=-1)
@click.option("--clear", is_flag=True, help="No alias needs approval any more.")
@common
def models_rules(session: Session, aliases: tuple[str, ...], clear: bool) -> None:
    """Show which aliases need a second person's approval; with ALIASES (or --clear) set them (admins)."""
    change = session.client.set_promotion_rules
    found = change(aliases) if aliases or clear else session.client.promotion_rules()
    if session.as_json:
        session.emit(found)
    else:
        session.out.print(Text(", ".join(map(clean, found)) or "no alias needs approval"))


@models.command("compare")
@click.argument("refs", metavar="NAME:VERSION...", nargs=-1, required=True)
@common
def models_compare(session: Session, refs: tuple[str, ...]) -> None:
    """Put versions side by side: metrics, params that differ, size; the best of each metric stands out."""
    if len(refs) < 2:
        raise CliError("give two versions or more, such as digits:v7 digits:production", code=USAGE)
    found = [session.client.version(*split(ref)) for ref in refs]
    runs = [_run(session, str(version.get("run") or "")) or {} for version in found]
    rows = _comparison(found, runs)
    if session.as_json:
        session.emit([{"version": version, "params": run.get("params", {})}
                      for version, run in zip(found, runs, strict=True)])  # fmt: skip
        return
    table = plain_table()
    table.add_column("", no_wrap=True)
    for version in found:
        table.add_column(ref_of(version.get("name")), no_wrap=True, justify="right", header_style="cyan")
    for label, values in rows:
        table.add_row(Text(clean(label)), *values)
    session.out.print(table)


def _comparison(versions: list[Json], runs: list[Json]) -> list[tuple[str, list[Text]]]:
    rows: list[tuple[str, list[Text]]] = []
    measured = [metrics_of(version) for version in versions]
    for key in sorted({key for each in measured for key in each}):
        values = [number(each.get(key)) for each in measured]
        known = [value for value in values if value is not None and value == value]
        best = (min if any(word in key.lower() for word in _SMALLER) else max)(known, default=None)
        rows.append((key, [Text(digits(value), "bold green" if value is not None and value == best else "")
                           for value in values]))  # fmt: skip
    params = [run.get("params", {}) for run in runs]
    for key in sorted({key for each in params for key in each}):
        told = [plain(each[key])[:40] if key in each else "-" for each in params]
        if len(set(told)) > 1:
            rows.append((key, [Text(each, "dim") for each in told]))
    rows.append(("size", [Text(size(float(version.get("size") or 0)), "dim") for version in versions]))
    return rows


def _run(session: Session, name: str) -> Json | None:
    try:
        return session.client.run(name) if name else None
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _print_run(session: Session, run: Json) -> None:
    out = session.out
    out.print(
        Text(f"  run {run.get('uid')}  ", "dim").append(
            clean(str(run.get("display_name") or "")), "bold not dim"
        )
    )
    if origin := run.get("origin"):
        out.print(origin_text(origin))
    if run.get("params"):
        out.print(params_text(run["params"]))
    if run.get("code"):
        out.print(code_text(run["code"]))
    environment: dict[str, Any] = run.get("environment", {})
    if told := [
        f"{clean(key)} {clean(str(value))}" for key, value in sorted(environment.items()) if key in _TOLD
    ]:
        out.print(Text("  " + "   ".join(told), "dim"))


_TOLD = ("environment", "python", "gpus", "torch", "numpy", "jax", "tensorflow", "transformers", "platform")


def _promotion(session: Session, given: str) -> str:
    """The uid that an id, or the beginning of one, means among what waits."""
    found = [
        str(each["uid"])
        for each in session.client.promotions(state="PENDING", limit=_MOST)
        if str(each["uid"]).startswith(given.rsplit("/", 1)[-1].lower())
    ]
    if len(found) > 1:
        raise CliError(f"{given!r} could be any of {len(found)}, type more of the id", code=USAGE)
    if not found:
        raise CliError(f"nothing that waits for approval has the id {clean(given)}", code=NOT_FOUND,
                       hint="`cairn models promotions` lists what there is")  # fmt: skip
    return found[0]


def _say(session: Session, promotion: Json) -> None:
    if session.as_json:
        session.emit(promotion)
        return
    state, alias = str(promotion.get("state")), clean(str(promotion.get("alias")))
    sign, style, said = {
        "APPROVED": ("✓", "green", f"is {alias}"),
        "REJECTED": ("✗", "red", f"is not to be {alias}"),
    }.get(state, ("○", "yellow", f"waits for approval as {alias}"))
    text = Text(f"{sign} ", style).append(ref_of(promotion.get("version")), "cyan")
    session.out.print(text.append(f"  {said}", "default"))
    if state == "PENDING":
        session.say(Text(f"  another admin: cairn models approve {str(promotion.get('uid'))[:18]}", "dim"))
