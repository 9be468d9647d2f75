"""What SkyPilot reaches, asked of its API server and remembered for a minute; and where a task would go."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog

from cairn_common.errors import Unavailable
from cairn_scheduler.infra import Accelerator, Infra, InfraState, NoPlacement, Placement, Survey
from cairn_scheduler.sky import complaints, words
from cairn_scheduler.sky.api import Api
from cairn_scheduler.sky.errors import Away, Kind, SkyError, explained

log = structlog.get_logger(__name__)

T = TypeVar("T")

ITSELF = "skypilot"
_FRESH_SECONDS = 60.0
# How long one caller waits; the work goes on without them.
_PATIENCE = 15.0
# SkyPilot asks 25 providers, some of which may be behind a firewall that answers nothing.
_CHECK_SECONDS = 180.0
_ASK_SECONDS = 20.0
_DRY_SECONDS = 20.0
# Kinds of infra that are one's own: asked first, as they answer at once.
_OWN = ["slurm", "kubernetes", "ssh"]
_WORKSPACE = "default"
# Those have no market.
_NO_SPOT = frozenset({"slurm", "k8s", "ssh"})
_CATALOG_NAMES = {"k8s": "kubernetes"}


@dataclass(slots=True)
class _Gpus:
    """One kind at one place, while it is put together."""

    counts: set[int] = field(default_factory=set)
    total: int | None = None
    free: int | None = None
    price: float | None = None
    spot_price: float | None = None


class Surveyor:
    """Asks once for all who want to know at the same time."""

    def __init__(self, api: Api, *, url: str) -> None:
        self._api = api
        self._url = url
        self._found: tuple[Infra, ...] = ()
        self._asked = float("-inf")
        self._work: asyncio.Task[None] | None = None

    async def survey(self, *, refresh: bool) -> Survey:
        """What is known, after at most 15 s."""
        stale = refresh or time.monotonic() - self._asked > _FRESH_SECONDS
        if stale and self._work is None:
            self._work = asyncio.create_task(self._look(), name="sky survey")
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=_PATIENCE)
        return Survey(self._found, complete=self._work is None)

    async def placements(self, task: str) -> Sequence[Placement]:
        """SkyPilot's choices for a task, in its order. Raises NoPlacement, Unavailable."""
        body = {"task": task, "cluster_name": "cairn-dryrun", "dryrun": True}
        try:
            async with asyncio.timeout(_DRY_SECONDS):
                text = await self._api.asked("/launch", body)
        except SkyError as error:
            told = explained(error, error.log)
            raise NoPlacement(str(told), passing=told.kind is not Kind.REFUSED) from None
        except (Away, TimeoutError) as error:
            raise Unavailable(
                f"SkyPilot's API server at {self._url} does not answer; `cairn check` says more",
                neighbour=ITSELF,
            ) from error
        return words.choices(text)

    async def stop(self) -> None:
        """Ends what still asks."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._ask_all()
        except (Away, TimeoutError) as error:
            log.warning("sky.survey_failed", error=str(error))
            self._found = (_away(self._url),)
        except SkyError as error:
            log.warning("sky.survey_failed", error=str(error))
            told = complaints.diagnose(str(error)) or complaints.Diagnosis(str(error))
            self._found = (Infra(ITSELF, InfraState.UNREACHABLE, told.problem, told.remedy),)
        finally:
            self._asked = time.monotonic()
            self._work = None

    async def _ask_all(self) -> None:
        own = await self._checked({"clouds": _OWN, "workspace": _WORKSPACE})
        self._found = tuple(_sorted(await self._filled(own)))
        every = await self._checked({"workspace": _WORKSPACE})
        known = {infra.name: infra for infra in self._found}
        # The report of all comes later, but what was filled in before is still true.
        fresh = [one for one in every if one.name not in known]
        filled = await self._filled(fresh)
        found = _sorted([*known.values(), *filled])
        if not any(infra.state is InfraState.ENABLED for infra in found):
            found.insert(0, _nothing())
        self._found = tuple(found)

    async def _checked(self, body: Mapping[str, object]) -> list[Infra]:
        return words.report(await self._api.asked("/check", body))

    async def _filled(self, infras: list[Infra]) -> list[Infra]:
        """With nodes, GPUs and prices, where they can be had."""
        enabled = {infra.name for infra in infras if infra.state is InfraState.ENABLED}
        if not enabled:
            return infras
        kinds = {name.partition("/")[0] for name in enabled}
        nodes = await self._tried(self._slurm_nodes(), []) if "slurm" in kinds else []
        pods = await self._tried(self._kubernetes(), {}) if "k8s" in kinds else {}
        offers = {name: await self._tried(self._offers(name), []) for name in sorted(enabled)}
        return [
            _with_details(infra, nodes, pods.get(infra.name, []), offers[infra.name])
            if infra.name in enabled
            else infra
            for infra in infras
        ]

    async def _tried(self, asking: Awaitable[T], otherwise: T) -> T:
        """What one question gives; details that cannot be had are left out."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await asking
        except (Away, SkyError, TimeoutError, ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("sky.details_missing", error=repr(error)[:300])
            return otherwise

    async def _slurm_nodes(self) -> list[dict[str, Any]]:
        found = await self._api.ask("/slurm_node_info")
        return [dict(node) for node in found or []]

    async def _kubernetes(self) -> dict[str, list[tuple[str, list[int], int, int]]]:
        found = await self._api.ask("/realtime_kubernetes_gpu_availability", {"is_ssh": False})
        return {
            f"k8s/{context}": [
                (str(kind), [int(one) for one in counts], int(total), int(free))
                for kind, counts, total, free in gpus
            ]
            for context, gpus, *_ in found or []
        }

    async def _offers(self, infra: str) -> list[tuple[str, int, float | None, float | None]]:
        """Kind, count, price and price on the spot market, of machines with that many."""
        cloud, _, region = infra.partition("/")
        body: dict[str, object] = {
            "gpus_only": True, "require_price": False, "clouds": [_CATALOG_NAMES.get(cloud, cloud)],
            "region_filter": region or None,
        }  # fmt: skip
        found = await self._api.ask("/list_accelerators", body)
        return [
            (str(kind), int(one[3]), _price(one[7]), None if cloud in _NO_SPOT else _price(one[8]))
            for kind, machines in (found or {}).items()
            for one in machines
            if float(one[3]) >= 1
        ]


def _with_details(
    infra: Infra,
    nodes: Iterable[Mapping[str, Any]],
    pods: Iterable[tuple[str, list[int], int, int]],
    offers: Iterable[tuple[str, int, float | None, float | None]],
) -> Infra:
    gpus: dict[str, _Gpus] = defaultdict(_Gpus)
    mine = [node for node in nodes if f"slurm/{node['slurm_cluster_name']}" == infra.name]
    for node in mine:
        if kind := node.get("gpu_type"):
            one = gpus[str(kind)]
            one.total = (one.total or 0) + int(node["total_gpus"])
            one.free = (one.free or 0) + int(node["free_gpus"])
    for kind, counts, total, free in pods:
        gpus[kind] = _Gpus(set(counts), total, free)
    for kind, count, price, spot in offers:
        one = gpus[kind]
        one.counts.add(count)
        one.price = _least(one.price, price, count)
        one.spot_price = _least(one.spot_price, spot, count)
    cpus = [(node.get("vcpu_count"), node.get("free_vcpus")) for node in mine]
    return replace(
        infra,
        accelerators=tuple(
            Accelerator(kind, tuple(sorted(one.counts)), one.total, one.free, one.price, one.spot_price)
            for kind, one in sorted(gpus.items())
        ),
        nodes=len(mine) or None,
        cpu_milli=1000 * sum(int(has or 0) for has, _ in cpus) or None,
        free_cpu_milli=1000 * sum(int(free or 0) for _, free in cpus) if mine else None,
    )


def _least(known: float | None, price: float | None, count: int) -> float | None:
    if price is None:
        return known
    each = round(price / count, 4)
    return each if known is None else min(known, each)


def _price(value: object) -> float | None:
    """None for what the catalog leaves open, which comes as NaN."""
    return float(value) if isinstance(value, int | float) and value == value and value >= 0 else None


def _sorted(infras: Iterable[Infra]) -> list[Infra]:
    rank = {InfraState.ENABLED: 0, InfraState.UNREACHABLE: 1, InfraState.DISABLED: 2}
    return sorted(infras, key=lambda infra: (rank[infra.state], infra.name))


def _away(url: str) -> Infra:
    return Infra(
        ITSELF,
        InfraState.UNREACHABLE,
        f"SkyPilot's API server at {url} does not answer",
        "see `cairn status` and its log; start it by `cairn up --skypilot`, or correct CAIRN_SKYPILOT_URL",
    )


def _nothing() -> Infra:
    return Infra(
        ITSELF,
        InfraState.DISABLED,
        "SkyPilot runs, but no infra is enabled",
        "set one of those below up, then `cairn check --refresh`",
    )
