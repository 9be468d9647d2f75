"""Random worlds, decided and carried out: overcommits, two-cycles, plans that leave work. One JSON line.

``python tests/bench/bench_worlds.py [WORLDS [FIRST_SEED]]``; 100,000 worlds unless said. Half of them have
machines. A failing world is said by its seed.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

from cairn_scheduler.engine.decide import decide
from tests.scenarios.checks import needless, overcommitted
from tests.scenarios.rounds import settle
from tests.scenarios.worlds import Kind, history


def main() -> None:
    worlds = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    wrong: dict[str, list[int]] = {"overcommits": [], "two_cycles": [], "unfinished": [], "needless": []}
    decided = evictions = 0
    begin = time.perf_counter()
    seed = first
    while decided < worlds:
        for world, plan in history(Random(seed), Kind(pools=seed % 2 == 1)):
            decided += 1
            evictions += len(plan.preemptions)
            after = settle(world, plan)
            if overcommitted(after):
                wrong["overcommits"].append(seed)
            by = {one.uid: one.by for one in plan.preemptions if one.by}
            again = decide(after)
            if again.preemptions or again.promises:
                wrong["unfinished"].append(seed)
            later = decide(replace(after, now=after.now + 10_000_000)) if by else again
            if any(by.get(one.by) == one.uid for one in later.preemptions):
                wrong["two_cycles"].append(seed)
            if by and needless(world, plan):
                wrong["needless"].append(seed)
        seed += 1
    print(
        json.dumps(
            {
                "worlds": decided,
                "evictions": evictions,
                **{name: len(seeds) for name, seeds in wrong.items()},
                "seeds": {name: seeds[:5] for name, seeds in wrong.items() if seeds},
                "seconds": round(time.perf_counter() - begin, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
