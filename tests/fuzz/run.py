"""The fuzzer by hand: ``python tests/fuzz/run.py --inputs 10000`` prints a table of what every reader did.

Exit code 1 where a reader has a fault: another error than the project's own, or too much time or memory.
Libraries complain on stderr. ``--target NAME --first INDEX --inputs 1`` repeats one input; ``--keep FOLDER`` leaves its
file there.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import documents
import files
import signatures
from harness import Count, Target, fuzz, mutated

from vggt_edge.exporter.commands.output import stdout_to_stderr


def all_targets() -> list[Target]:
    """Every reader that is fuzzed."""
    return [*documents.targets(), *files.targets(), *signatures.targets(documents.write_bundle)]


def chosen(names: list[str]) -> list[Target]:
    """The targets of these names, all where none is given."""
    every = all_targets()
    unknown = sorted(set(names) - {target.name for target in every})
    if unknown:
        sys.exit(f"unknown target {unknown[0]!r}; known: {', '.join(target.name for target in every)}")
    return [target for target in every if not names or target.name in names]


def row(count: Count) -> str:
    """A line of the table, in Markdown."""
    cells = (count.target, count.inputs, count.taken, count.refused, count.faulty, f"{count.slowest_s:.2f}")
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Run, print, and say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=300, help="inputs for each target (default: 300)")
    parser.add_argument("--target", action="append", default=[], help="name of a target; may be repeated; default: all")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds damage otherwise (default: 0)")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the damaged file of the first input")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print("| reader | inputs | taken | refused | faults | slowest, s |\n|---|---|---|---|---|---|", flush=True)
    found = 0
    with tempfile.TemporaryDirectory(prefix="vggt-edge-fuzz-") as scratch:
        for number, target in enumerate(chosen(given.target)):
            if given.keep is not None:
                _keep(target, given.keep, given.first, given.seed)
            inputs = max(1, round(given.inputs * target.share))
            with stdout_to_stderr():  # programs that readers start write to the descriptor itself
                count = fuzz(target, Path(scratch) / str(number), range(given.first, given.first + inputs), given.seed)
            print(row(count), flush=True)
            for fault in count.faults.values():
                print(f"{target.name}: {fault.kind}, first at input {fault.index}\n{fault.detail}", flush=True)
            found += count.faulty
    return 1 if found else 0


def _keep(target: Target, folder: Path, index: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target.write(folder)
    name, content = mutated(target, {name: (folder / name).read_bytes() for name in target.mutators}, index, seed)
    (folder / name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
