"""`cairn quota`: the tree of quotas and budgets, as a file and as it stands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.text import Text
from rich.tree import Tree

from cairn._cli.errors import USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment
from cairn._http import ApiError, Json
from cairn._ids import new_uid

_VERSION = re.compile(r"^version: *(\d+) *$", re.MULTILINE)
_SIGNS = {"ADDED": ("+", "green"), "REMOVED": ("-", "red"), "CHANGED": ("~", "yellow")}
BAR = 12
HOUR = 3_600_000
MONEY = 1_000_000


@click.group(short_help="The quota tree and its budgets: apply, diff, tree, export, log, adjust.")
def quota() -> None:
    """Describe who may use how much in one file, apply it, and see how it stands.

    \b
    cairn quota export > tree.yaml     begin with what there is
    cairn quota diff tree.yaml         what the file would change
    cairn quota apply tree.yaml        make it so
    cairn quota tree                   used, borrowed, lent; budgets
    """


@quota.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--node", default="", metavar="NODE", help="The file says what is beneath this node alone.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common
def apply(session: Session, file: str, node: str, yes: bool) -> None:
    """Make a tree file rule, all or nothing. What is held stays held."""
    text = _read(file)
    told = _send(session, file, text, node=node, dry=True)
    changes = told.get("changes") or []
    if not changes and int(told["tree"].get("version") or 0):
        session.emit(told) if session.as_json else session.say(Text("nothing to change", "dim"))
        return
    if not session.as_json:
        _show_changes(session, changes)
        _show_new_teams(session, told)
    if session.interactive and not yes:
        click.confirm("apply?", abort=True, err=True)
    done = _send(session, file, text, node=node, etag=told["tree"].get("etag") or "0", dry=False)
    version = int(done["tree"]["version"])
    if session.as_json:
        session.emit(done)
    else:
        session.say(Text(f"applied: the tree is at version {version}", "green"))
    if _VERSION.search(text) and file != "-":
        # The file speaks of the version that it was read from; its next edit begins at this one.
        Path(file).write_text(_VERSION.sub(f"version: {version}", text, count=1), encoding="utf-8")
        session.say(Text(f"{file} now says `version: {version}`", "dim"))


@quota.command("diff")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--node", default="", metavar="NODE", help="The file says what is beneath this node alone.")
@common
def diff(session: Session, file: str, node: str) -> int:
    """Show what a tree file would change; exits with 1 where it would change something."""
    told = _send(session, file, _read(file), node=node, dry=True)
    changes = told.get("changes") or []
    if session.as_json:
        session.emit(changes)
    else:
        _show_changes(session, changes)
        _show_new_teams(session, told)
        if not changes:
            session.say(Text("no difference", "dim"))
    return 1 if changes else 0


@quota.command("export")
@common
def export(session: Session) -> None:
    """Print the tree as a file that `cairn quota apply` takes."""
    found = session.client.quota_tree(document=True)
    if session.as_json:
        session.emit(found)
        return
    version = int(found.get("version") or 0)
    click.echo(f"version: {version}\n{found.get('document', '')}", nl=False)


@quota.command("tree")
@common
def tree(session: Session) -> None:
    """Draw the tree with what is used, borrowed and lent, and its budgets with what is left."""
    found = session.client.quota_tree(use=True)
    if session.as_json:
        session.emit(found)
        return
    drawn: dict[str, Tree] = {}
    for node in found.get("nodes") or []:
        label = _node_label(node)
        above = drawn.get(node.get("parent") or "")
        drawn[node["id"]] = above.add(label) if above is not None else Tree(label, guide_style="dim")
    for root in list(drawn.values())[:1]:
        session.out.print(root)
    budgets = [budget for budget in found.get("budgets") or [] if budget.get("balance")]
    if budgets:
        session.out.print(_budget_table(budgets, clean(str(found.get("currency") or ""))))


@quota.command("log")
@click.option("-n", "count", default=10, show_default=True, help="How many versions.")
@common
def log(session: Session, count: int) -> None:
    """Show who changed the tree, when, and what."""
    found = session.client.quota_versions(count)
    if session.as_json:
        session.emit(found)
        return
    for version in found:
        head = Text(f"version {version['version']}", "bold").append(
            f"  {clean(str(version.get('actor', '')))}  {age(moment(version.get('time')))} ago", "dim"
        )
        session.out.print(head)
        _show_changes(session, version.get("changes") or [])


@quota.command("adjust")
@click.argument("budget")
@click.argument("amount", type=float)
@click.option("--reason", required=True, help="Why, for the ledger.")
@common
def adjust(session: Session, budget: str, amount: float, reason: str) -> None:
    """Add GPU-hours or money to a budget's period of now; below zero takes away (after `--`)."""
    tree_now = session.client.quota_tree()
    known = {one["id"]: one for one in tree_now.get("budgets") or []}
    if budget not in known:
        raise CliError(f"there is no budget {budget!r}; there are: {', '.join(known) or 'none'}", code=USAGE)
    scale = HOUR if known[budget].get("unit") == "GPU_HOURS" else MONEY
    done = session.client.adjust_budget(budget, round(amount * scale), reason=reason, request_id=new_uid())
    if session.as_json:
        session.emit(done)
        return
    session.out.print(_budget_table([done], clean(str(tree_now.get("currency") or ""))))


def supposed(session: Session, file: str) -> Json:
    """What a tree file would make of the tree: `tree` and `changes`. Nothing is changed."""
    return _send(session, file, _read(file), node="", dry=True)


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CliError(f"{file} is no text in UTF-8", code=USAGE) from None


def _send(session: Session, file: str, text: str, *, node: str, dry: bool, etag: str = "") -> Json:
    try:
        return session.client.apply_quota_tree(text, node=node, etag=etag, validate_only=dry)
    except ApiError as error:
        if error.reason == "TREE_INVALID":
            raise CliError(f"{file}: {clean(error.detail)}", code=USAGE, hint="nothing was changed") from None
        raise


def _show_changes(session: Session, changes: list[Json]) -> None:
    for change in changes:
        sign, style = _SIGNS.get(str(change.get("action")), ("?", ""))
        before, after = clean(str(change.get("before") or "")), clean(str(change.get("after") or ""))
        values = f"{before} → {after}" if before and after else after or before
        line = Text(f"{sign} {clean(str(change.get('path')))}", style).append(f"  {values}", "default")
        session.out.print(line)


def _show_new_teams(session: Session, told: Json) -> None:
    for name in told.get("new_teams") or []:
        team = clean(str(name).removeprefix("teams/"))
        session.out.print(Text(f"+ team {team}", "green").append("  is not there yet; you will own it"))


def _node_label(node: Json) -> Text:
    kind = str(node.get("kind") or "").lower()
    label = Text(clean(str(node["id"])), "bold")
    notes = [kind] if kind else []
    weight = int(node.get("weight_milli") or 1000)
    if weight != 1000:
        notes.append(f"weight {weight / 1000:g}")
    if node.get("implied"):
        notes.append("not in the tree file")
    label.append(f"  {', '.join(notes)}", "dim")
    stop = str(node.get("stop") or "STOP_UNSPECIFIED")
    if stop in ("HOLD", "DRAIN"):
        label.append(f"  {stop.lower()}", "red")
    for line in _use_lines(node):
        label.append("\n").append_text(line)
    return label


def _use_lines(node: Json) -> Iterator[Text]:
    most = {(one["flavor"], one["resource"]): one.get("max") for one in node.get("quotas") or []}
    for use in node.get("uses") or []:
        key = use["flavor"], use["resource"]
        used, nominal = int(use.get("used") or 0), int(use.get("nominal") or 0)
        bound = most.get(key)
        if not used and not nominal and bound is None:
            continue
        limit = nominal or (int(bound) if bound is not None else 0)
        name = key[1] if key[0] == "*" else f"{key[0]} {key[1]}"
        line = Text(f"{clean(name):<20} ", "cyan").append_text(bar(used, limit))
        line.append(f" {_amount(used)}" + (f" of {_amount(limit)}" if limit or bound is not None else ""))
        if nominal and bound is not None:
            line.append(f", at most {_amount(int(bound))}", "dim")
        for name, style in (("borrowed", "yellow"), ("lent", "magenta")):
            if int(use.get(name) or 0):
                line.append(f"  {name} {_amount(int(use[name]))}", style)
        yield line


def bar(used: int, limit: int) -> Text:
    """How much of a limit is used, as a bar; nothing is drawn where there is no limit."""
    if not limit:
        return Text(" " * BAR)
    full = round(min(1.0, used / limit) * BAR) or int(used > 0)
    style = "red" if used >= limit else "green"
    return Text("█" * full, style).append("░" * (BAR - full), "dim")


def _amount(milli: int) -> str:
    return f"{milli / 1000:,.10g}"


def _budget_table(budgets: list[Json], currency: str) -> Any:
    table = plain_table()
    for title in ("BUDGET", "COVERS", "", "SPENT", "HELD", "LEFT", "OF", "OVERRUN"):
        table.add_column(title, justify="right" if title in ("SPENT", "HELD", "LEFT", "OF") else "left")
    for budget in budgets:
        balance = budget.get("balance") or {}
        hours = budget.get("unit") == "GPU_HOURS"
        scale, unit = (HOUR, "GPU-h") if hours else (MONEY, currency or "money")
        amounts = {name: int(balance.get(name) or 0) for name in ("settled", "held", "available", "granted")}
        user = f"user {budget['user']}" if budget.get("user") else ""
        covers = " ".join(part for part in (str(budget.get("node") or ""), user) if part)
        table.add_row(
            Text(clean(str(budget["id"])), "cyan"),
            clean(covers),
            bar(amounts["settled"] + amounts["held"], amounts["granted"]),
            *(f"{amounts[name] / scale:,.2f}" for name in ("settled", "held", "available")),
            f"{amounts['granted'] / scale:,.2f} {unit}",
            str(budget.get("overrun") or "DENY_NEW").lower() + (", safe" if budget.get("safe") else ""),
        )
    return table
