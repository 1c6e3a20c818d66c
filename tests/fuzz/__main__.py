"""`make fuzz`: changed and generated files for everything that reads files of strangers."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.fuzz.run import lines, replay, run_all
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Exit status 1 if an item failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=240, help="for all of them together (240)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="for items that fail")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="run one item of a TARGET")
    args = parser.parse_args()
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]}: there are {', '.join(TARGETS)}")
    if args.replay is not None:
        reason = replay(args.targets[0], args.replay)
        print(reason or "nothing is wrong")
        return int(reason is not None)
    targets = args.targets or list(TARGETS)
    workers = min(len(targets), os.cpu_count() or 1)
    seconds = args.seconds * workers / len(targets)
    outcomes = run_all(
        targets, args.out, workers, seed=args.seed, seconds=seconds,
        generated=int(20 * seconds),
    )  # fmt: skip
    print("\n".join(lines(outcomes)))
    return int(any(each.failures for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
