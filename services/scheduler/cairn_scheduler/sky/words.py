"""What SkyPilot prints for people, read: its report on credentials, its table of choices. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from cairn_scheduler.infra import Infra, InfraState, Placement
from cairn_scheduler.sky.complaints import Diagnosis, diagnose, plain, short, unreachable

_CLOUD = re.compile(r"  (\S.*?): (enabled|disabled)\b")
_CONTEXT = re.compile(r"\s+[├└]── (\S+?): (.*)")
_REASON = re.compile(r"\s*Reason \[([a-z, ]+)\]: (.*)")
_EXTRAS = re.compile(
    r"not installed|No module named|Failed to import|pip install|ImportError|tools are not", re.IGNORECASE
)
# What follows a reason in the same line, and is no part of it.
_ADVICE = re.compile(
    r"\s*Run the following commands?:.*| To configure credentials.*|^Credentials can be.*|"
    r"[.,]? ?(?:Install(?: it with)?|To install, run|Try pip).*"
)
_LATER = "set up its credentials, then `cairn check --refresh`"
_ONLY_STORES = frozenset({"cloudflare", "coreweave", "vastdata", "huggingface"})
# SkyPilot's name of a cloud, where `infra` has another one.
_NAMES = {"kubernetes": "k8s"}
_COLUMN = re.compile(r"\S+(?: \S+)*")
_PLACE = re.compile(r"(.+?) \((.+)\)")


def report(text: str) -> list[Infra]:
    """The places in the report of SkyPilot's check, as it prints it; those that only store are left out."""
    found: list[Infra] = []
    for cloud, enabled, lines in _sections(plain(text)):
        if cloud in _ONLY_STORES:
            continue
        contexts = list(_contexts(cloud, lines))
        if contexts:
            found += contexts
        elif enabled:
            found.append(Infra(cloud, InfraState.ENABLED))
        elif any("compute" in kinds for kinds in _reasons(lines)):
            found.append(_disabled(cloud, lines))
    return found


def choices(text: str) -> list[Placement]:
    """SkyPilot's table of considered resources, the chosen one first."""
    lines = [line.rstrip() for line in plain(text).splitlines()]
    found: list[tuple[bool, Placement]] = []
    for place, line in enumerate(lines):
        titles = [(match.group(), match.start()) for match in _COLUMN.finditer(line)]
        names = [name for name, _ in titles]
        if "INFRA" in names and "CHOSEN" in names:
            starts = [start for _, start in titles]
            for row in lines[place + 2 :]:
                if not row.strip() or row.startswith("-"):
                    break
                found.append(_row(dict(zip(names, _cells(row, starts), strict=True))))
    ordered = [one for chosen, one in found if chosen] + [one for chosen, one in found if not chosen]
    return list(dict.fromkeys(ordered))


def _sections(text: str) -> Iterator[tuple[str, bool, list[str]]]:
    """Each cloud of the report: its name in `infra`, whether it is enabled, and the lines below it."""
    cloud, enabled, lines = "", False, list[str]()
    for line in text.splitlines():
        match = _CLOUD.match(line)
        if match is None and (line.startswith("To enable a cloud") or "Enabled infra" in line):
            break
        if match is not None:
            if cloud:
                yield cloud, enabled, lines
            name = match.group(1).lower()
            cloud, enabled, lines = _NAMES.get(name, name), match.group(2) == "enabled", []
        elif cloud:
            lines.append(line)
    if cloud:
        yield cloud, enabled, lines


def _contexts(cloud: str, lines: Iterable[str]) -> Iterator[Infra]:
    """Clusters of a kind of cloud that has several, each with its own state."""
    name, words = "", list[str]()
    for line in lines:
        match = _CONTEXT.match(line)
        if match is None:
            words.append(line.strip())
            continue
        if name:
            yield _context(f"{cloud}/{name}", " ".join(words))
        name, words = match.group(1), [match.group(2)]
    if name:
        yield _context(f"{cloud}/{name}", " ".join(words))


def _context(infra: str, words: str) -> Infra:
    if words.lower().startswith("enabled"):
        told = re.sub(r"^enabled\.?\s*", "", words, flags=re.IGNORECASE).removeprefix("Note: ")
        note = diagnose(told, infra=infra) or Diagnosis(short(told))
        return Infra(infra, InfraState.ENABLED, note.problem, note.remedy)
    told = re.sub(r"^disabled\.?\s*(?:Reason: )?", "", words, flags=re.IGNORECASE)
    known = diagnose(told, infra=infra) or Diagnosis(short(told), "see `sky check` of SkyPilot's API server")
    state = InfraState.UNREACHABLE if unreachable(told) else InfraState.DISABLED
    return Infra(infra, state, known.problem, known.remedy)


def _disabled(cloud: str, lines: list[str]) -> Infra:
    text = "\n".join(lines)
    known = diagnose(text, infra=cloud)
    if known is not None:
        state = InfraState.UNREACHABLE if unreachable(text) else InfraState.DISABLED
        return Infra(cloud, state, known.problem, known.remedy)
    first = next((match.group(2) for line in lines if (match := _REASON.match(line))), "")
    if first.startswith("Traceback"):
        first = next((line.strip() for line in reversed(lines) if line.strip()), first)
    first = _ADVICE.sub("", first)
    return Infra(
        cloud, InfraState.DISABLED, short(first) or "its credentials are not set up", _remedy(cloud, text)
    )


def _remedy(cloud: str, text: str) -> str:
    extra = {"k8s": "kubernetes"}.get(cloud, cloud)
    if _EXTRAS.search(text) and "socat" not in text:
        return (
            f"start by `CAIRN_SKYPILOT_EXTRAS=slurm,{extra} cairn up --skypilot`, and set up its credentials"
        )
    text = text.partition("On MacOS")[0]
    commands = [line.strip()[2:] for line in text.splitlines() if line.strip().startswith("$ ")]
    if commands and not any("<<" in command for command in commands):
        return short("on the machine of SkyPilot's API server: " + "; ".join(commands))
    link = re.search(r"https://\S+", text)
    return f"see {link.group().rstrip('.')}" if link else _LATER


def _reasons(lines: Iterable[str]) -> Iterator[str]:
    return (match.group(1) for line in lines if (match := _REASON.match(line)))


def _row(cells: dict[str, str]) -> tuple[bool, Placement]:
    place = _PLACE.fullmatch(cells["INFRA"])
    cloud, region = (place.group(1), place.group(2)) if place else (cells["INFRA"], "")
    instance = cells.get("INSTANCE", "")
    cloud = _NAMES.get(cloud.lower(), cloud.lower())
    return bool(cells["CHOSEN"]), Placement(
        infra=f"{cloud}/{region}" if region and region != "-" else cloud,
        instance="" if instance == "-" else instance.replace("[Spot]", ""),
        accelerators="" if cells.get("GPUS") in ("-", None) else cells["GPUS"],
        cpus=_number(cells.get("vCPUs")),
        memory_gib=_number(cells.get("Mem(GB)")),
        price=_number(cells.get("COST ($)")),
        spot="[Spot]" in instance,
    )


def _cells(row: str, starts: list[int]) -> list[str]:
    ends = [*starts[1:], len(row) + 1]
    return [row[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", "").rstrip("+"))
    except ValueError:
        return None
