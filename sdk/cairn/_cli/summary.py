"""The pieces of a run's page in the terminal: heading, timeline, metrics, checkpoints, code."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cairn._cli.looks import main_metrics, plain_table, state_text
from cairn._cli.records import SYSTEM, Record
from cairn._cli.text import (
    age,
    clean,
    clean_line,
    day,
    digits,
    moment,
    plain,
    size,
    span,
    sparkline,
)
from cairn._http import Json

MOST_METRICS = 20
MOST_PARAMS = 40


def heading(record: Record) -> RenderableType:
    """State, name, id; below it the few facts that one looks for first."""
    first = (
        state_text(record.state).append("  ").append(record.name or "(no name)", style="bold not dim default")
    )
    first.append(f"  {record.uid}", style="not bold not dim cyan")
    facts = [("experiment", record.experiment), ("created", f"{age(record.created)} ago")]
    if record.duration is not None:
        facts.append(("took" if record.final else "running for", span(record.duration)))
    if record.state == "RUNNING" and record.seen is not None and record.silent is None:
        facts.append(("heard from", f"{age(record.seen)} ago"))
    if record.attempts > 1:
        facts.append(("attempts", str(record.attempts)))
    second = Text("  ")
    for label, value in facts:
        second.append(f"{label} ", style="dim").append(f"{value}   ")
    parts: list[RenderableType] = [first, second]
    if (silent := record.silent) is not None:
        told = f"no contact for {span(silent)}: it may still run; it is ended by evidence alone"
        parts.append(Text(f"  {told}", "yellow"))
    if record.note:
        parts.append(Text(f"  {record.note}", style="yellow" if not record.final else "dim"))
    return Group(*parts)


def last_lines(job: Json | None, run: Json | None) -> list[str]:
    """What the command wrote last, where the platform kept it with the failure."""
    message = str((job or run or {}).get("message") or "")
    return [clean_line(line, colors=False) for line in message.split("\n")[1:] if line.strip()]


def metrics_table(series: list[Json], summary: Json) -> Table:
    """Last, least and greatest value of each metric from the run's summary, with its course."""
    table = plain_table()
    table.add_column("METRIC", no_wrap=True)
    table.add_column("COURSE", no_wrap=True)
    for title in ("LAST", "MIN", "MAX", "STEP"):
        table.add_column(title, justify="right", no_wrap=True)
    summary = {key: value for key, value in summary.items() if not key.startswith(SYSTEM)}
    courses = {str(each.get("key")): each.get("last", []) for each in series}
    for key in main_metrics(dict.fromkeys(summary, 0.0), MOST_METRICS):
        values = summary[key]
        table.add_row(
            Text(clean(key)),
            Text(sparkline(courses.get(key, [])), "blue"),
            Text(digits(values.get("last", 0)), "bold"),
            Text(digits(values.get("min"))),
            Text(digits(values.get("max"))),
            Text(str(values.get("last_step", 0)), "dim"),
        )
    if len(summary) > MOST_METRICS:
        table.add_row(Text(f"and {len(summary) - MOST_METRICS} more", "dim"))
    return table


def lost_text(run: Json) -> Text | None:
    """How many points are missing, and why; None where none is."""
    told = [
        f"{count:,} points {why}"
        for name, why in (
            ("rejected_points", "were refused: a key or step that cannot be, or a metric too many"),
            (
                "dropped_points",
                "were lost where they were logged: a full disk, or an image that the store refused",
            ),
        )
        if (count := int(run.get(name) or 0))
    ]
    return Text("\n".join(f"  {line}" for line in told), "yellow") if told else None


def dropped_text(run: Json) -> Text | None:
    """What a rule of the team's let go of it, and when; None where all that was logged is there."""
    told = []
    if when := moment(run.get("points_drop_time")):
        told.append(
            f"raw points were dropped on {day(when)} by the team's rule; charts and summaries are as before"
        )
    if when := moment(run.get("lines_drop_time")):
        told.append(f"lines were dropped on {day(when)} by the team's rule")
    return Text("\n".join(f"  {line}" for line in told), "dim") if told else None


def system_text(summary: Json) -> Text:
    """What it used of its machine: the last value and the greatest of each."""
    text = Text("  ")
    for key in sorted(key for key in summary if key.startswith(SYSTEM)):
        last, most = (digits(summary[key].get(name)) for name in ("last", "max"))
        name = clean(key.removeprefix(SYSTEM))
        text.append(f"{name} ", style="dim").append(last, "bold")
        text.append(f" (most {most})   " if most != last else "   ", style="dim")
    return text


def params_text(params: dict[str, Any]) -> Text:
    """lr 0.1   width 16"""
    text = Text("  ")
    for key, value in list(params.items())[:MOST_PARAMS]:
        text.append(f"{clean(key)} ", style="dim").append(f"{plain(value)[:80]}   ")
    if len(params) > MOST_PARAMS:
        text.append(f"and {len(params) - MOST_PARAMS} more", style="dim")
    return text


def checkpoints_table(versions: list[Json], *, restart: int | None = None) -> Table:
    """Step, metrics, size and age of each, newest first; of the one at `restart` is said what it is for."""
    table = plain_table()
    for title in ("CHECKPOINT", "STEP", "METRICS", "SIZE", "AGE"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("STEP", "SIZE", "AGE") else "left")
    if restart is not None:
        table.add_column("", no_wrap=True)
    for place, version in enumerate(versions):
        metrics = (version.get("metadata") or {}).get("metrics") or {}
        said = "  ".join(f"{clean(str(key))} {digits(value)}" for key, value in list(metrics.items())[:3])
        table.add_row(
            Text(f"v{version.get('version')}", "cyan"),
            Text(str(version.get("step", "-"))),
            Text(said),
            Text(size(float(version.get("size") or 0))),
            Text(f"{age(moment(version.get('create_time')))} ago", "dim"),
            *(
                [Text("a restart goes on here" if place == restart else "", "green")]
                if restart is not None
                else []
            ),
        )
    return table


def origin_text(origin: Json) -> Text:
    """What a run was made from: another run, and of a resumed one the checkpoint's step."""
    resumed = origin.get("kind") == "RESUME"
    text = Text("  resumed from " if resumed else "  rerun of ", style="dim")
    text.append(str(origin.get("run") or origin.get("job") or "").rsplit("/", 1)[-1], "not dim cyan")
    if resumed:
        text.append(f" at step {origin['step']}" if "step" in origin else "", "not dim default")
        name = clean(str(origin.get("checkpoint") or "")).split("/artifacts/")[-1].replace("/versions/", ":v")
        text.append(f"   checkpoint {name}")
    return text


def own_code(run: Json) -> Json:
    """What a run without a job told of its git, as a job's code has it."""
    told = run.get("environment", {})
    return {name: told[name] for name in ("git_commit", "git_branch", "git_diff") if name in told}


def code_text(code: Json) -> Text:
    """Commit, branch, what was not committed, and the archive."""
    text = Text("  ")
    if commit := clean(str(code.get("git_commit") or "")):
        text.append("commit ", style="dim").append(commit[:12])
        if branch := clean(str(code.get("git_branch") or "")):
            text.append(f" ({branch})")
        changed = str(code.get("git_diff") or "").count("\ndiff --git ") + str(
            code.get("git_diff") or "").startswith("diff --git ")  # fmt: skip
        if changed:
            text.append(f" + changes in {changed} {'file' if changed == 1 else 'files'}", style="yellow")
        text.append("   ")
    if digest := clean(str(code.get("digest") or "")):
        text.append("archive ", style="dim").append(f"{digest[:12]}, {size(float(code.get('size') or 0))}")
    return text
