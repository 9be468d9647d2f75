"""`python -m tests.scenarios FILE...`: runs scenario files; prints pass or FAIL per case."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.scenarios.cases import outcomes
from tests.scenarios.deviations import DEVIATIONS


def main(paths: list[str]) -> int:
    if not paths:
        print("usage: python -m tests.scenarios FILE...", file=sys.stderr)
        return 2
    failed = total = 0
    for path in paths:
        for one in outcomes(Path(path)):
            total += 1
            if one.wrong and one.name in DEVIATIONS:
                print(f"differs  {one.name}: {DEVIATIONS[one.name]} ({one.wrong})")
            elif one.wrong:
                failed += 1
                print(f"FAIL     {one.name}: {one.wrong}")
            else:
                print(f"pass     {one.name}")
    print(f"{total - failed} of {total} as expected")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
