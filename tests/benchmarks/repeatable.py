"""Two exports of the same request hold the same bytes: the targets that the tests have no time for.

    python tests/benchmarks/repeatable.py [--case TARGET/PRECISION ...]

As in ``tests/exporter/test_repeatable.py`` the two differ in hash seed, threads, working folder, locale, time zone,
umask, home and folder for temporary files. Prints what differs beside ``measured.json``; exit code 1 where anything
does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from vggt_edge.runtimes.common.kit import script_module

CASES = ("host-cpu/w4a16", "jetson-orin/mixed", "ios-ar/w8a16", "ios-ar/p4a16", "android/w8a8d", "android-gpu/w8a16")
law = script_module(Path(__file__).parents[1] / "exporter" / "test_repeatable.py", "test_repeatable")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[], help=f"default: {' '.join(CASES)}")
    found = 0
    print("| case | files | different |\n|---|---|---|", flush=True)
    for case in parser.parse_args().case or CASES:
        with TemporaryDirectory() as folder:
            one, two = law.two_bundles(law.private_place(Path(folder)), *case.split("/"))
            different = [path for path in law.differing(one, two) if path != "measured.json"]
            print(f"| {case} | {len(law.content(one))} | {', '.join(different) or 'none'} |", flush=True)
            found += len(different)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
