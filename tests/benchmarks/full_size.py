"""Every figure of the full-size export, and of what others need for the same model; run by hand, it takes hours.

``python tests/benchmarks/full_size.py --checkpoint FILE --work DIR`` makes the measurements that DIR has no result of
and rewrites the tables of docs/benchmarks/full-size.md. See README.md beside it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from artifacts import is_random
from measure import format_seconds, format_size, parse_size
from measurements import MEASUREMENTS, ROOT, Bench
from section import render, replace_section

PHOTOS = ROOT.parent / "shared" / "data" / "photos"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="safetensors file of the model")
    parser.add_argument("--work", type=Path, required=True, help="folder for results, graphs, bundles, environments")
    parser.add_argument("--scenes", type=Path, default=PHOTOS, help="photographs to calibrate and validate on")
    parser.add_argument("--only", type=names, help="measurements, separated by commas; all without this and --again")
    parser.add_argument("--again", type=names, default=(), help="make these again even though there is a result")
    parser.add_argument("--list", action="store_true", help="print every measurement and its state, measure nothing")
    parser.add_argument("--render", action="store_true", help="only write the section from the results there are")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/full-size.md", help="file with the tables")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--ceiling", type=size, default=size("20GB"), help="kill a program that takes more memory")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime, for the latency")
    parser.add_argument("--repeats", type=int, default=3, help="of each model, for the latency")
    parser.add_argument("--warmups", type=int, default=1, help="forwards before the timed one, for the latency")
    parser.add_argument("--kills", type=int, default=4, help="of the killed export")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    parser.add_argument("--export", type=shlex.split, default=[], help="more arguments of every export, in quotes")
    parser.add_argument("--mixed", type=shlex.split, default=[], help="more arguments of the mixed export, in quotes")
    return parser.parse_args(arguments)


def names(text: str) -> tuple[str, ...]:
    given = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in given if name not in MEASUREMENTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no measurement {', '.join(unknown)}; one of: {', '.join(MEASUREMENTS)}")
    return given


def size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def bench_of(given: argparse.Namespace) -> Bench:
    return Bench(
        checkpoint=given.checkpoint.resolve(),
        work=given.work.resolve(),
        scenes=given.scenes.resolve(),
        frames=given.frames,
        resolution=given.resolution,
        ceiling_bytes=given.ceiling,
        threads=given.threads,
        repeats=given.repeats,
        warmups=given.warmups,
        kills=given.kills,
        seed=given.seed,
        mixed=tuple(given.mixed),
        export=tuple(given.export),
    )


def state(bench: Bench, name: str) -> str:
    result = bench.result(name)
    if result is None:
        return "not measured"
    figures = f"{format_seconds(result['wall_s'])}, {format_size(result['peak_bytes'])}"
    return f"{'done' if result['ok'] else 'FAILED'}: {result['ended']} ({figures})"


def measure(bench: Bench, name: str) -> bool:
    """Make one measurement and keep its result; False where it gave no figure."""
    lacking = [need for need in MEASUREMENTS[name].needs if not (bench.result(need) or {}).get("ok")]
    if lacking:
        print(f"{name}: needs {', '.join(lacking)} first", file=sys.stderr)
        return False
    print(f"{name} ...", file=sys.stderr, flush=True)
    outcome = MEASUREMENTS[name].make(bench)
    path = bench.result_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(outcome.document(), indent=2) + "\n")
    scratch.replace(path)
    print(f"{name}: {state(bench, name)}; its output is in {bench.work / 'logs'}", file=sys.stderr, flush=True)
    return outcome.ok


def write_section(bench: Bench, out: Path) -> None:
    results = {name: result for name in MEASUREMENTS if (result := bench.result(name)) is not None}
    titles = {name: measurement.title for name, measurement in MEASUREMENTS.items()}
    what = f"`{bench.checkpoint.name}`, {bench.frames} frames of {bench.resolution} x {bench.resolution} pixels"
    body = render(results, titles, what, random_weights=is_random(bench.checkpoint))
    text = out.read_text() if out.is_file() else ""
    out.write_text(replace_section(text, body))


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    bench = bench_of(given)
    if given.list:
        for name in MEASUREMENTS:
            print(f"{name:<16} {state(bench, name)}")
        return 0
    wanted = (*(given.only or ()), *given.again) or tuple(MEASUREMENTS)
    chosen = [] if given.render else [name for name in MEASUREMENTS if name in wanted]
    todo = [name for name in chosen if name in given.again or not (bench.result(name) or {}).get("ok")]
    fine = [measure(bench, name) for name in todo]
    write_section(bench, given.out)
    return 0 if all(fine) else 1


if __name__ == "__main__":
    # As an exception, so that the program that is being measured is ended as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
