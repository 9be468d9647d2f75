"""`cairn lineage`"""

from __future__ import annotations

from collections import defaultdict

import click
from rich.text import Text
from rich.tree import Tree

from cairn._cli.errors import NOT_FOUND, CliError
from cairn._cli.find import find
from cairn._cli.looks import state_sign
from cairn._cli.results import others, ref_of
from cairn._cli.session import Session, common
from cairn._cli.text import clean
from cairn._http import ApiError, Json

_MOST_LINES = 400


@click.command(short_help="Show what a version or run comes from, and what came of it.")
@click.argument("name", metavar="NAME[:VERSION]|RUN")
@click.option("--up", "direction", flag_value="UP", help="Only what it comes from.")
@click.option("--down", "direction", flag_value="DOWN", help="Only what came of it.")
@common
def lineage(session: Session, name: str, direction: str | None) -> None:
    """Show what a version (digits:v7; digits is its latest) or a run comes from, and what came of it, over
    any number of steps: runs with their code, data, checkpoints, models, evaluations."""
    graph = _traced(session, name, direction or "")
    if session.as_json:
        session.emit(graph)
        return
    for title, upward in (("comes from", True), ("led to", False)):
        if direction not in (None, "UP" if upward else "DOWN"):
            continue
        tree = Tree(_label(graph["nodes"][0]).append(f"  {title}", "not bold dim"), guide_style="dim")
        _grow(tree, graph, upward=upward)
        if not tree.children:
            tree.add(Text("nothing", "dim"))
        session.out.print(tree)
    if graph.get("truncated"):
        session.say(Text("there is more; the nearest are shown (--json has up to 20,000)", "dim"))


def _traced(session: Session, name: str, direction: str) -> Json:
    client = session.client
    if ":" in name:
        return client.trace(name, direction=direction)
    try:
        return client.trace(f"{name}:latest", direction=direction)
    except ApiError as error:
        if error.status not in (400, 404):
            raise
    try:
        return client.trace(find(client, name), direction=direction)
    except CliError as error:
        if error.told.code != NOT_FOUND:
            raise
        raise CliError(
            f"there is no artifact {clean(name)}, and no job or run whose id begins so, or that is named so",
            code=NOT_FOUND,
            hint="`cairn artifacts ls` and `cairn ls` list what there is",
        ) from None


def _grow(tree: Tree, graph: Json, *, upward: bool) -> None:
    """Below each node what is one step on; a node that stands somewhere already is not opened again."""
    nodes = graph["nodes"]
    following: dict[int, list[int]] = defaultdict(list)
    for edge in graph.get("edges", []):
        source, target = int(edge.get("source", 0)), int(edge.get("target", 0))
        near, far = (target, source) if upward else (source, target)
        if far not in following[near] and _reached(nodes[far], upward):
            following[near].append(far)
    shown, waiting, lines = {0}, [(tree, 0)], 0
    while waiting:
        branch, at = waiting.pop(0)
        for far in following[at]:
            lines += 1
            if lines > _MOST_LINES:
                branch.add(Text("...", "dim"))
                return
            label = _label(nodes[far])
            if far in shown:
                branch.add(label.append("  (opened elsewhere)" if following[far] else "", "dim"))
                continue
            shown.add(far)
            waiting.append((branch.add(label), far))


def _reached(node: Json, upward: bool) -> bool:
    distance = int(node.get("distance", 0))
    return distance < 0 if upward else distance > 0


def _label(node: Json) -> Text:
    name = str(node.get("name", ""))
    if "/runs/" in name:
        text = state_sign(str(node.get("state", ""))).append(" run ", "dim")
        text.append(clean(str(node.get("display_name") or "")) or "(no name)", "bold")
        text.append(f"  {ref_of(name)}", "not bold cyan")
        if commit := clean(str(node.get("git_commit") or "")):
            text.append(f"  commit {commit[:12]}", "not bold dim")
        if code := clean(str(node.get("code_digest") or "")):
            text.append(f"  code {code[:12]}", "not bold dim")
        return text
    kind = str(node.get("kind", "")).removeprefix("ARTIFACT_KIND_").lower()
    text = Text(f"{kind} ", "dim").append(ref_of(name), "bold cyan")
    if "step" in node:
        text.append(f"  step {node['step']}", "not bold default")
    if (aliases := others(node.get("aliases", []))).plain:
        text.append("  ").append_text(aliases)
    return text.append("  deleted", "not bold red") if node.get("deleted") else text
