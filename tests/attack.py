"""An attack on what is stored, in figures: python tests/attack.py

Kills at random moments, full disks, damaged videos. After each, no stored reply may be lost or stored twice, no file
may be half written under its name, and the next start must end as an undisturbed one; after a kill the one after it,
since what was in flight fails once. Prints how many of each kind held; exit status 1 if one did not. Full disks need
the right to mount a file system.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # called as a script

from tests.support.attacks import disks, kills, videos

ATTACKS = {"disks": (disks, 60), "kills": (kills, 210), "videos": (videos, 300)}
SHOWN_FAULTS = 5


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, (_, default) in ATTACKS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of all moments and changes (default: %(default)s)")
    args = parser.parse_args()
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, (attack, _) in ATTACKS.items():
            if number := getattr(args, name):
                broken += report(name, attack(Path(folder, name), number, args.seed))
    return 1 if broken else 0


def report(name, outcomes) -> int:
    """Prints a line for each kind, and the first faults; how many did not hold."""
    began = time.monotonic()
    tried, held, faults = Counter(), Counter(), []
    for kind, fault in outcomes:
        tried[kind] += 1
        held[kind] += not fault
        faults += [f"{kind}: {fault}"] if fault else []
    for kind in sorted(tried):
        print(f"{kind:45} {held[kind]:5} of {tried[kind]:5} held", flush=True)
    for fault in faults[:SHOWN_FAULTS]:
        print(f"  NOT HELD {fault}")
    print(f"{name}: {held.total()} of {tried.total()} held, {time.monotonic() - began:.0f} s", flush=True)
    return len(faults)


if __name__ == "__main__":
    sys.exit(main())
