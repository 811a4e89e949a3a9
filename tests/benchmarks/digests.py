"""Whether a change of the code changes what an export writes: sha256 sums of small bundles for every kind of target.

``digests.py write FILE`` exports the embedded model once for each case and writes one line a file: its sha256, the case
and its path in the bundle. ``digests.py compare BEFORE AFTER`` prints what differs, and exits with 1 if anything does.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from vggt_edge.exporter.bundle import read_manifest
from vggt_edge.exporter.cli import main as vggt_edge

SMALL = (
    *("--frames", "2", "--resolution", "28", "--calibration-scenes", "2", "--validation-scenes", "1"),
    *("--sensitivity", "probe"),
)
# The first holds times. The others' words change more often than what they are about.
VARYING = ("measured.json", "manifest.json", "report.html", "lowered-*.json")
ENDS_WITH_A_BUNDLE = (0, 4)  # 4: the accuracy gate, which so few scenes do not pass


@dataclass(frozen=True)
class Case:
    """One export of the embedded model."""

    target: str
    precision: str
    effort: str = "fast"
    outputs: str = "camera,depth,points"

    @property
    def name(self) -> str:
        return f"{self.target}/{self.precision}/{self.effort}"


CASES = (
    Case("host-cpu", "w8a8"),
    Case("host-cpu", "w8a8", "max", "camera"),
    Case("host-cpu", "w4a16"),
    Case("host-cpu", "mixed"),
    Case("host-cpu", "fp32", "none"),
    Case("jetson-orin", "mixed"),
    Case("jetson-orin", "w8a8", "none"),
    Case("ios-ar", "w8a16", "none"),
    Case("ios-ar", "p4a16"),
    Case("ios-ar", "mixed", "none"),
    Case("android", "w8a8d", "none"),
    Case("android", "w4a8d"),
    Case("android-gpu", "mixed", "none"),
)


def digests(bundle: Path) -> dict[str, str]:
    """sha256 by path of every file of a bundle whose content does not depend on when and where it was made.

    Digests of the plan, of the statistics and of other files of the bundle count as zeros: a file that only names
    another one does not change with it.
    """
    content = {
        path.relative_to(bundle).as_posix(): path.read_bytes() for path in sorted(bundle.rglob("*")) if path.is_file()
    }
    named = {*read_manifest(bundle).digests.values(), *map(_sha256, content.values())}
    return {
        name: _sha256(_blanked(data, named))
        for name, data in content.items()
        if not any(fnmatch(Path(name).name, pattern) for pattern in VARYING)
    }


def _blanked(data: bytes, named: Iterable[str]) -> bytes:
    for digest in named:
        data = data.replace(digest.encode(), b"0" * len(digest))
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def exported(case: Case, folder: Path) -> dict[str, str]:
    """The digests of the bundle that ``case`` makes."""
    out = folder / case.name.replace("/", "-")
    chosen = ("--target", case.target, "--precision", case.precision, "--effort", case.effort)
    asked = ("export", *chosen, "--outputs", case.outputs, *SMALL, "--log-level", "error", "-o", str(out))
    code = vggt_edge(list(asked))
    if code not in ENDS_WITH_A_BUNDLE:
        raise SystemExit(f"{case.name}: the export ended with {code}")
    return digests(out)


def lines(cases: Sequence[Case]) -> Iterator[str]:
    for case in cases:
        with TemporaryDirectory() as folder:
            for path, digest in exported(case, Path(folder)).items():
                yield f"{digest}  {case.name}  {path}"


def read(path: Path) -> dict[tuple[str, str], str]:
    """(case, path in the bundle) to sha256."""
    entries = (line.split("  ") for line in path.read_text().splitlines())
    return {(case, file): digest for digest, case, file in entries}


def differences(before: Mapping[tuple[str, str], str], after: Mapping[tuple[str, str], str]) -> list[str]:
    """One line for each file that is gone, new or changed, of the cases that both lists hold."""
    shared = {case for case, _ in before} & {case for case, _ in after}
    keys = sorted(key for key in {*before, *after} if key[0] in shared)
    return [
        f"{'gone' if key not in after else 'new' if key not in before else 'changed'}: {key[0]}  {key[1]}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    write = verbs.add_parser("write", help="export every case and write the digests")
    write.add_argument("file", type=Path)
    write.add_argument("--only", default="", help="text that a case's name holds, such as ios-ar/")
    compare = verbs.add_parser("compare", help="print the files that differ")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "write":
        with arguments.file.open("w") as file:
            for line in lines([case for case in CASES if arguments.only in case.name]):
                print(line, file=file, flush=True)
        return 0
    before, after = read(arguments.before), read(arguments.after)
    found = differences(before, after)
    print("\n".join(found) or f"the same: {len(after)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
