"""`make kill-test`: SIGKILL at random moments, and what is left afterwards."""

from __future__ import annotations

import argparse
import sys
import time

from tests.kill.run import Finding, duration, kill_once, lines, plan
from tests.kill.scenarios import SCENARIOS


def main() -> int:
    """Exit status 1 if a file is half, or anything is left."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=165)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS, help="this scenario")
    args = parser.parse_args()
    start, done, found = time.monotonic(), [], list[Finding]()
    times = {name: duration(name) for name in SCENARIOS if args.only in (None, name)}
    for name, number in plan(args.kills):
        if name in times:
            found += kill_once(name, number, args.seed, times[name])
            done.append((name, number))
    print("\n".join(lines(done, found)))
    print(f"{len(done)} kills, {len(found)} findings, {time.monotonic() - start:.0f} s")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
