"""`cairn retention`, `cairn artifacts protect`: what goes by itself, and which aliases admins alone move."""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.errors import USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, ago, clean, moment, short, size, span
from cairn._http import Json
from cairn._publish import KINDS, kind_name

_SHOWN = 200
RECORDS = ("points", "lines")
_WHAT = (*KINDS, *RECORDS)


@click.group()
def retention() -> None:
    """Rules by which old versions, points and lines go by themselves, for each kind and experiment."""


@retention.command("ls")
@common
def retention_ls(session: Session) -> None:
    """List the team's rules."""
    keeping = session.client.keeping()
    found = [*keeping.get("retention", []), *keeping.get("records", [])]
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say(
            "there are none: all stays; cairn retention set -k checkpoint --keep-last 3 makes one,"
            " cairn retention set -k points --keep-for 90d another"
        )
        return
    table = plain_table()
    for title in ("KIND", "EXPERIMENT", "STAY"):
        table.add_column(title, no_wrap=True)
    for rule in found:
        table.add_row(
            Text(_kind(rule), "cyan"),
            Text(clean(str(rule.get("experiment") or "all others"))),
            Text(_words(rule)),
        )
    session.out.print(table)


@retention.command("set")
@click.option(
    "-k", "--kind", type=click.Choice(_WHAT), required=True, help="A kind of artifact; or points, or lines."
)
@click.option(
    "-e", "--experiment", default="", help="Of its runs alone; else of all without a rule of their own."
)
@click.option("--keep-last", type=click.IntRange(1), default=None, help="Of each artifact, so many stay.")
@click.option("--keep-best", type=click.IntRange(1), default=None, help="So many stay by --metric.")
@click.option("--metric", default="", help="Of the version, or the last value of its run.")
@click.option("--lowest", is_flag=True, help="The lowest values are the best.")
@click.option("--keep-for", default="", metavar="SPAN", help="What is younger stays, such as 36h, 30d.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@common
def retention_set(
    session: Session,
    kind: str,
    experiment: str,
    keep_last: int | None,
    keep_best: int | None,
    metric: str,
    lowest: bool,
    keep_for: str,
    dry_run: bool,
) -> None:
    """Let versions of a kind go, but for those that the options, an alias, a pin or a run keep.

    Points and lines go --keep-for after a run was over. What is left of a metric's points draws the same
    chart, and its summary stays.
    """
    seconds = ago(keep_for) if keep_for else None
    if keep_for and seconds is None:
        raise CliError(f"--keep-for {keep_for!r} is no span of time; give 36h or 30d", code=USAGE)
    rule: Json = {**_of(kind), "experiment": experiment}
    if kind in RECORDS:
        if keep_last or keep_best or metric or lowest or seconds is None:
            raise CliError(f"{kind} stay for a time: give --keep-for and no other amount", code=USAGE)
    else:
        rule |= {"lowest": lowest, "metric": metric, "keep_last": keep_last or 0, "keep_best": keep_best or 0}
    if seconds is not None:
        rule["keep_for"] = f"{seconds:.0f}s"
    keeping = session.client.keeping()
    field = _field(kind)
    rules = [*(each for each in keeping.get(field, []) if not _same(each, rule)), rule]
    if dry_run and kind in RECORDS:
        _show_expiring(session, session.client.preview_expiry(rules))
        return
    if dry_run:
        _show(session, session.client.preview_retention(rules))
        return
    made = session.client.set_keeping(**{field: rules}, etag=str(keeping.get("etag", "")))
    if session.as_json:
        session.emit(made)
        return
    (own,) = (each for each in made.get(field, []) if _same(each, rule))
    told = f"{_many(kind)} of {experiment or 'all others'} stay: {_words(own)}"
    session.out.print(Text("✓ ", "green").append(told, "default"))


@retention.command("rm")
@click.option(
    "-k", "--kind", type=click.Choice(_WHAT), required=True, help="A kind of artifact; or points, or lines."
)
@click.option("-e", "--experiment", default="", help="Of which experiment; else the rule for all others.")
@common
def retention_rm(session: Session, kind: str, experiment: str) -> None:
    """Take a rule away: nothing goes by it any more."""
    keeping = session.client.keeping()
    field, rule = _field(kind), {**_of(kind), "experiment": experiment}
    left = [each for each in keeping.get(field, []) if not _same(each, rule)]
    if len(left) == len(keeping.get(field, [])):
        raise CliError(
            f"there is no rule for {_many(kind)} of {experiment or 'all others'}: see cairn retention ls"
        )
    made = session.client.set_keeping(**{field: left}, etag=str(keeping.get("etag", "")))
    if session.as_json:
        session.emit(made)
        return
    told = f"{_many(kind)} of {experiment or 'all others'} all stay"
    session.out.print(Text("✓ ", "green").append(told, "default"))


@retention.command("preview")
@click.option("--records", is_flag=True, help="Points and lines instead of versions.")
@common
def retention_preview(session: Session, records: bool) -> None:
    """Show which versions go next by the rules that hold, and which of them somebody keeps."""
    if records:
        _show_expiring(session, session.client.preview_expiry())
    else:
        _show(session, session.client.preview_retention())


@click.command("protect")
@click.argument("aliases", nargs=-1, metavar="[ALIAS]...")
@click.option("--remove", is_flag=True, help="Let members move these aliases again.")
@common
def protect(session: Session, aliases: tuple[str, ...], remove: bool) -> None:
    """Let admins alone move these aliases; what a model under one comes from is kept. Without any: list."""
    keeping = session.client.keeping()
    protected = list(keeping.get("protected_aliases", []))
    if aliases:
        wanted = [each for each in protected if each not in aliases] if remove else [*protected, *aliases]
        keeping = session.client.set_keeping(
            protected_aliases=sorted(set(wanted)), etag=str(keeping.get("etag", ""))
        )
        protected = list(keeping.get("protected_aliases", []))
    if session.as_json:
        session.emit(protected)
        return
    session.out.print(Text(clean(", ".join(protected)) or "no alias is protected"))


def _show(session: Session, found: list[Json]) -> None:
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say("nothing goes")
        return
    table = plain_table()
    for title in ("VERSION", "KIND", "SIZE", "AGE", "KEPT BY"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("SIZE", "AGE") else "left")
    for each in found[:_SHOWN]:
        version = each.get("version", {})
        _, _, _, artifact, _, number = str(version.get("name", "")).split("/")
        table.add_row(
            Text(f"{clean(artifact)}:v{number}", "cyan"),
            Text(_kind(version)),
            Text(size(float(version.get("size") or 0))),
            Text(age(moment(version.get("create_time")))),
            Text(clean("; ".join(each.get("held_by", []))) or "nobody: it goes"),
        )
    session.out.print(table)
    going = [each["version"] for each in found if not each.get("held_by")]
    total = size(sum(float(each.get("size") or 0) for each in going))
    session.say(Text(f"{len(going)} of {len(found)} go, {total} before deduplication", style="dim"))


def _show_expiring(session: Session, found: list[Json]) -> None:
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say("nothing goes")
        return
    table = plain_table()
    for title in ("RUN", "NAME", "EXPERIMENT", "QUIET FOR", "POINTS", "LINES"):
        table.add_column(
            title, no_wrap=True, justify="right" if title in ("QUIET FOR", "POINTS", "LINES") else "left"
        )
    for each in found[:_SHOWN]:
        points, lines = int(each.get("points") or 0), int(each.get("lines") or 0)
        table.add_row(
            Text(short(str(each.get("run", "")).rpartition("/")[2], None), "cyan"),
            Text(clean(str(each.get("display_name") or ""))),
            Text(clean(str(each.get("experiment", "")).rpartition("/")[2])),
            Text(age(moment(each.get("quiet_time")))),
            Text(f"{points:,}" if points else ""),
            Text(f"{lines:,}" if lines else ""),
        )
    session.out.print(table)
    points, lines = (sum(int(each.get(name) or 0) for each in found) for name in ("points", "lines"))
    told = f"of {len(found)} runs, about {points:,} points and {lines:,} lines; charts and summaries stay"
    session.say(Text(told, style="dim"))


def _words(rule: Json) -> str:
    if rule.get("record"):
        return f"for {span(float(str(rule['keep_for']).removesuffix('s')))} after a run was over"
    words = []
    if rule.get("keep_last"):
        words.append(f"the last {rule['keep_last']}")
    if rule.get("keep_best"):
        end = "lowest" if rule.get("lowest") else "highest"
        words.append(f"the {rule['keep_best']} with the {end} {rule['metric']}")
    if rule.get("keep_for"):
        words.append(f"those younger than {span(float(str(rule['keep_for']).removesuffix('s')))}")
    return clean(", ".join(words))


def _of(kind: str) -> Json:
    """What a rule for it is for, as the API has it."""
    return {"record": f"RECORD_{kind.upper()}"} if kind in RECORDS else {"kind": kind_name(kind)}


def _field(kind: str) -> str:
    return "records" if kind in RECORDS else "retention"


def _many(kind: str) -> str:
    return kind if kind in RECORDS else f"{kind}s"


def _same(rule: Json, other: Json) -> bool:
    return all((rule.get(name) or "") == (other.get(name) or "") for name in ("kind", "record", "experiment"))


def _kind(each: Json) -> str:
    return (
        str(each.get("kind") or each.get("record") or "")
        .removeprefix("ARTIFACT_KIND_")
        .removeprefix("RECORD_")
        .lower()
    )
