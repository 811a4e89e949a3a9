#!/usr/bin/env python3
"""Say how far the outputs of a device run are from the golden tensors beside this file.

Reads kit.json, golden.safetensors and what executor_runner wrote (output-0.bin, output-1.bin, in the order of the
outputs in kit.json), prints the figures and writes result.json. Needs Python 3.8 or later and numpy; nothing else.
Exit codes: 0 nothing failed (the status says whether it passed, or could not be judged for want of a limit), 2 wrong
arguments or unusable files, 3 no numpy, 4 too far from the simulation, 7 not enough memory or disk.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # also where Python runs with -P
    sys.path.insert(0, str(HERE))

from kit_common import (  # noqa: E402  it lies beside this file
    BUNDLE_AGAIN,
    EXIT_ACCURACY,
    EXIT_OK,
    EXIT_RESOURCES,
    EXIT_TOOLCHAIN,
    EXIT_USAGE,
    FAILED,
    MOST_DB,
    NOT_JUDGED,
    WIDEST_ANGLE,
    Judge,
    KitError,
    count,
    digest_of,
    field_of,
    filled,
    is_plain_name,
    limit_of,
    outputs_of,
    read_header,
    read_json,
    result_of,
    say,
    sha256_of,
    summary,
    tensor_values,
    text_of,
    whole_of,
    write_result,
)

SCHEMA_VERSION = 1
LONGEST_LOG = 16 << 20
EXECUTED = re.compile(r"Model executed successfully ([0-9]{1,9}) time\(s\) in ([0-9]{1,15}(?:\.[0-9]{1,9})?) ms")
LOADED = re.compile(r"Model loaded in ([0-9]{1,15}(?:\.[0-9]{1,9})?) ms")


# --- arguments and files ----------------------------------------------------------------------------------------------


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=HERE, help="holds kit.json, golden.safetensors (default: here)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--outputs", type=Path, help="holds output-0.bin, output-1.bin, ...")
    what.add_argument("--files", action="store_true", help="only list what a device run needs")
    parser.add_argument("--report", type=Path, default=None, help="default: result.json in the folder")
    parser.add_argument("--log", type=Path, default=None, help="what executor_runner printed: its times are taken over")
    parser.add_argument("--device", default="", help="what it ran on, for the report")
    return parser.parse_args(argv)


def import_numpy():
    try:
        import numpy
    except ImportError as error:
        raise KitError(
            EXIT_TOOLCHAIN, "numpy cannot be imported: %s" % error, "python3 -m pip install numpy"
        ) from error
    return numpy


def load_kit(path):
    """The used fields of kit.json: a dict of target, plan_digest, model, outputs, golden and the limits, or None."""
    raw = read_json(path)
    try:
        if field_of(raw, "schema_version") != SCHEMA_VERSION or isinstance(raw["schema_version"], bool):
            raise ValueError("schema_version %.40r instead of %d" % (raw["schema_version"], SCHEMA_VERSION))
        tolerances, model = filled(raw, "tolerances", dict), filled(raw, "model", dict)
        weights = field_of(model, "weights")
        if weights is None and field_of(model, "weights_sha256") is not None:
            raise ValueError("weights_sha256 of no weights")
        whole_of(filled(model, "memory", dict), "planned_bytes")  # for the kit of apps, and refused by that as well
        return {
            "target": text_of(raw, "target"),
            "plan_digest": text_of(raw, "plan_digest"),
            "program": (text_of(model, "program"), digest_of(model, "sha256")),
            "weights": None if weights is None else (text_of(model, "weights"), digest_of(model, "weights_sha256")),
            "runtime_version": text_of(model, "executorch_version"),
            "outputs": outputs_of(raw),
            "golden": field_of(raw, "golden"),
            "sqnr_db_min": limit_of(tolerances, "backend_sqnr_db_min", MOST_DB),
            "pose_degrees_max": limit_of({"pose_degrees_max": None, **tolerances}, "pose_degrees_max", WIDEST_ANGLE),
        }
    except ValueError as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), BUNDLE_AGAIN) from error


# --- golden tensors ---------------------------------------------------------------------------------------------------


def load_golden(folder, kit):
    """(simulation, fp32): dicts of float32 arrays by the names of outputs; fp32 may lack some."""
    path, wanted = golden_path(folder, kit)
    try:
        if sha256_of(path) != wanted:
            raise ValueError("it is not the file that kit.json lists")
        with path.open("rb") as file:
            entries, start = read_header(file, path.stat().st_size)
            shapes = dict(kit["outputs"])
            simulation = {name: read_tensor(file, entries, start, "simulation/" + name, kit) for name in shapes}
            present = [name for name in shapes if "fp32/" + name in entries]
            fp32 = {name: read_tensor(file, entries, start, "fp32/" + name, kit) for name in present}
    except (OSError, ValueError) as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), BUNDLE_AGAIN) from error
    return simulation, fp32


def golden_path(folder, kit):
    golden = kit["golden"]
    if not isinstance(golden, dict):
        raise KitError(EXIT_USAGE, "this kit has no golden tensors", "export again; the validation writes them")
    name, digest = golden.get("file"), golden.get("sha256")
    if not is_plain_name(name) or not isinstance(digest, str):
        raise KitError(EXIT_USAGE, "kit.json names the golden tensors %r" % (name,), BUNDLE_AGAIN)
    return folder / name, digest


def read_tensor(file, entries, start, key, kit):
    if key not in entries:
        raise ValueError("it has no tensor %s" % key)
    shape = dict(kit["outputs"])[key.partition("/")[2]]
    if entries[key][0] != shape:
        raise ValueError("%s has the shape %s, kit.json says %s" % (key, entries[key][0], shape))
    return tensor_values(file, key, entries[key], start)


# --- what the device gave ---------------------------------------------------------------------------------------------


def load_outputs(folder, kit):
    """The outputs by name. They carry no names of their own: the order is that of kit.json."""
    return {name: load_output(folder / ("output-%d.bin" % index), name, shape, kit)
            for index, (name, shape) in enumerate(kit["outputs"])}  # fmt: skip


def load_output(path, name, shape, kit):
    import numpy as np

    expected = 4 * count(shape)
    try:
        size = path.stat().st_size
        if size == expected:
            return np.fromfile(str(path), "<f4").reshape(shape)
    except OSError as error:
        raise KitError(
            EXIT_USAGE, "cannot read %s, the output %s: %s" % (path, name, error.strerror), "run the model again"
        ) from error
    fitting = [other for other, sides in kit["outputs"] if 4 * count(sides) == size]
    hint = "it has the size of %s: are these outputs of another model?" % ", ".join(fitting) if fitting else ""
    raise KitError(
        EXIT_USAGE,
        "%s has %d bytes, the output %s takes %d" % (path, size, name, expected),
        hint or "pull the whole file from the device again",
    )


def load_times(path):
    """What executor_runner says of its times, None where there is no log or it says nothing."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_LOG).decode("utf-8", errors="replace")
    except OSError as error:
        raise KitError(EXIT_USAGE, "cannot read %s: %s" % (path, error.strerror)) from error
    executed, loaded = EXECUTED.search(text), LOADED.search(text)
    if executed is None or int(executed.group(1)) == 0:
        return None
    runs, total = int(executed.group(1)), float(executed.group(2))
    return {"runs": runs, "mean_ms": total / runs, "load_ms": float(loaded.group(1)) if loaded else None}


# --- the run ----------------------------------------------------------------------------------------------------------


def summarise(result):
    for entry in result["outputs"]:
        print(summary(entry))
    if result["times"] is not None:
        print("%(runs)d runs, %(mean_ms).3f ms each on average" % result["times"])
    print("status: %s" % result["status"])


def list_files(kit):
    """For run_on_device.sh, with tabs between them: role, sha256, name of each file; then the number of outputs."""
    golden = kit["golden"]
    if not isinstance(golden, dict):
        raise KitError(EXIT_USAGE, "this kit has no golden tensors", "export again; the validation writes them")
    lines = [(role, kit[role][1], kit[role][0]) for role in ("program", "weights") if kit[role] is not None]
    lines.append(("input", golden.get("input_sha256"), golden.get("input_file")))
    for role, digest, name in lines:
        if not re.fullmatch("[0-9a-f]{64}", str(digest)) or not is_below(str(name)):
            raise KitError(EXIT_USAGE, "kit.json lists %r as its %s" % (name, role), BUNDLE_AGAIN)
    lines.append(("outputs", "-", str(len(kit["outputs"]))))
    for line in lines:
        print("\t".join(line))


def is_below(name):
    """A path of plain words that stays in the folder and needs no quoting on a device."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", name))


def run(arguments):
    """The whole job; returns the exit code. The report is written also when an output is too far away."""
    kit = load_kit(arguments.folder / "kit.json")
    if arguments.files:
        list_files(kit)
        return EXIT_OK
    import_numpy()
    simulation, fp32 = load_golden(arguments.folder, kit)
    judge = Judge(simulation, fp32, kit["sqnr_db_min"], kit["pose_degrees_max"])
    judge.add(load_outputs(arguments.outputs, kit))
    times = load_times(arguments.log)
    result = result_of(kit, judge.outputs)
    result.update(
        model_sha256=kit["program"][1],
        runtime={"name": "executorch", "version": kit["runtime_version"]},
        device={"model": arguments.device or None, "system": None},
        thermal={"before": None, "after": None},
        low_power_mode=None,
        threads=None,
        # The runner prints no more than the mean.
        timings_ms={"compile": None, "load": times and times["load_ms"], "first_prediction": None, "measured": None},
        latency=None,
        load_s=None,
        memory_bytes={"value": None, "how": None},
        times=times,
    )
    result["exit_code"] = EXIT_ACCURACY if result["status"] == FAILED else EXIT_OK
    path = arguments.report or arguments.folder / "result.json"
    write_result(path, result)
    summarise(result)
    if result["status"] == NOT_JUDGED:
        say("not judged: kit.json has no limit; export with a profile that has backend_sqnr_db_min")
    say("result: %s" % path)
    return result["exit_code"]


def main(argv=None):
    try:
        return run(parse_arguments(argv))
    except KitError as error:
        say("error: %s" % error)
        return error.code
    except MemoryError:
        say("error: not enough memory\n  next: close other programs")
        return EXIT_RESOURCES


if __name__ == "__main__":
    sys.exit(main())
