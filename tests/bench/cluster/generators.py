"""The workloads of Kueue's own performance test, as its generator makes them. Pure.

Numbers of kubernetes-sigs/kueue, test/performance/scheduler/configs/{baseline,large-scale}/generator.yaml
(Apache-2.0; the large one is the release of 1,000 queues): one creator for each queue and class, which waits
its interval before each workload.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Class:
    """One set of workloads of a queue. Seconds; `gpus` stands for Kueue's one resource."""

    name: str
    count: int
    interval: float
    runtime: float
    priority: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What a generator makes: `cohorts` times `queues` queues, each with all classes."""

    name: str
    cohorts: int
    queues: int
    classes: tuple[Class, ...]
    nominal: int = 20
    borrow: int = 100

    @property
    def jobs(self) -> int:
        """How many in all."""
        return self.cohorts * self.queues * sum(one.count for one in self.classes)


@dataclass(frozen=True, slots=True)
class Creator:
    """Who makes the workloads of one class in one queue, one after the other."""

    team: str
    kind: Class


BASELINE = Shape(
    "baseline",
    5,
    6,
    (
        Class("small", 350, 0.1, 0.2, 50, 1),
        Class("medium", 100, 0.5, 0.5, 100, 5),
        Class("large", 50, 1.2, 1.0, 200, 20),
    ),
)
LARGE_SCALE = Shape(
    "large-scale",
    10,
    100,
    (
        Class("small", 35, 0.06, 0.15, 50, 1),
        Class("medium", 11, 0.3, 0.35, 100, 5),
        Class("large", 4, 0.7, 0.7, 200, 20),
    ),
)
SHAPES = {shape.name: shape for shape in (BASELINE, LARGE_SCALE)}


def team(cohort: int, queue: int) -> str:
    """The id of a queue's team."""
    return f"cq-{cohort}-{queue}"


def creators(shape: Shape) -> list[Creator]:
    """All of them; they begin together."""
    return [
        Creator(team(cohort, queue), kind)
        for cohort in range(shape.cohorts)
        for queue in range(shape.queues)
        for kind in shape.classes
    ]


def tree(shape: Shape) -> str:
    """The quota tree: cohorts that lend nothing to each other, queues that lend all within theirs.

    Preemption as Kueue's generator sets it: within a queue of lower priority, reclaiming from any.
    """
    quota = f"{{rf: {{gpu: {{nominal: {shape.nominal}, borrow_limit: {shape.borrow}}}}}}}"
    groups = []
    for cohort in range(shape.cohorts):
        teams = ", ".join(f"{{team: {team(cohort, n)}, quotas: {quota}}}" for n in range(shape.queues))
        alone = "{rf: {gpu: {nominal: 0, borrow_limit: 0}}}"
        groups.append(f"{{group: cohort-{cohort}, quotas: {alone}, children: [{teams}]}}")
    return (
        "{flavors: {rf: {}}, tree: {organisation: kueue, preemption: {within: lower, reclaim: any},"
        f" children: [{', '.join(groups)}]}}}}"
    )


def task(kind: Class) -> str:
    """Its task file."""
    return (
        f"run: sleep {kind.runtime}\nresources: {{accelerators: 'GPU:{kind.gpus}', cpus: 1}}\n"
        f"cairn: {{priority: {kind.priority}}}\n"
    )
