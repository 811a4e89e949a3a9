#!/usr/bin/env python3
"""Say how far the outputs of a device run are from the golden tensors beside this file.

Reads kit.json, golden.safetensors and what executor_runner wrote (output-0.bin, output-1.bin, in the order of the
outputs in kit.json), prints the figures and writes device_report.json. Needs Python 3.8 or later and numpy; nothing
else. Exit codes: 0 passed, 2 wrong arguments or unusable files, 3 no numpy, 4 too far from the simulation,
7 not enough memory or disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from pathlib import Path

EXIT_OK, EXIT_USAGE, EXIT_TOOLCHAIN, EXIT_ACCURACY, EXIT_RESOURCES = 0, 2, 3, 4, 7
SCHEMA_VERSION = 1
HERE = Path(__file__).resolve().parent
# Longer headers are refused, as the reference implementation of safetensors does.
LONGEST_HEADER = 100_000_000
SQNR_LIMIT_DB = 200.0
ZERO_BASELINE = 1e-6
EXECUTED = re.compile(r"Model executed successfully (\d+) time\(s\) in ([0-9.]+) ms")
LOADED = re.compile(r"Model loaded in ([0-9.]+) ms")
BUNDLE_AGAIN = "copy the whole folder from the bundle again"


class KitError(Exception):
    """Ends the run with ``code``; ``remedy`` is what to do next."""

    def __init__(self, code, what, remedy=""):
        super().__init__(what + ("\n  next: " + remedy if remedy else ""))
        self.code = code


# --- arguments and files ----------------------------------------------------------------------------------------------


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=HERE, help="holds kit.json, golden.safetensors (default: here)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--outputs", type=Path, help="holds output-0.bin, output-1.bin, ...")
    what.add_argument("--files", action="store_true", help="only list what a device run needs")
    parser.add_argument("--report", type=Path, default=None, help="default: device_report.json in the folder")
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
    """What is used of kit.json: a dict of target, plan_digest, model, outputs, golden and the limits."""
    try:
        kit = json.loads(path.read_text(encoding="utf-8"))
        if kit["schema_version"] != SCHEMA_VERSION:
            raise ValueError("schema_version %r instead of %d" % (kit["schema_version"], SCHEMA_VERSION))
        outputs = [(named(output["name"]), sides(output["shape"])) for output in kit["outputs"]]
        tolerances = kit["tolerances"]
        used = {
            "target": str(kit["target"]),
            "plan_digest": str(kit["plan_digest"]),
            "model": dict(kit["model"]),
            "outputs": outputs,
            "golden": kit["golden"],
            "sqnr_db_min": limit(tolerances["backend_sqnr_db_min"], 200),
            "pose_degrees_max": limit(tolerances.get("pose_degrees_max"), 180),
        }
        if not outputs or len(dict(outputs)) < len(outputs):
            raise ValueError("the outputs are not one or more different ones")
        _ = kit["model"]["program"], kit["model"]["sha256"], kit["model"]["weights"], kit["model"]["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), BUNDLE_AGAIN) from error
    return used


def named(text):
    if not isinstance(text, str):
        raise ValueError("%r is no name" % (text,))
    return text


def limit(number, highest):
    """A limit that neither everything nor nothing passes; None for none."""
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number <= highest:
        raise ValueError("%r is no limit above 0 and at most %d" % (number, highest))
    return float(number)


def sides(shape):
    """A tuple of sides that are whole and not negative."""
    if not isinstance(shape, list) or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("%r is no shape" % (shape,))
    return tuple(shape)


def count(shape):
    total = 1
    for side in shape:
        total *= side
    return total


def sha256_of(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


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
    except (OSError, ValueError, RecursionError) as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), BUNDLE_AGAIN) from error
    return simulation, fp32


def golden_path(folder, kit):
    golden = kit["golden"]
    if not isinstance(golden, dict):
        raise KitError(EXIT_USAGE, "this kit has no golden tensors", "export again; the validation writes them")
    name, digest = golden.get("file"), golden.get("sha256")
    if not isinstance(name, str) or not isinstance(digest, str) or Path(name).name != name:
        raise KitError(EXIT_USAGE, "kit.json names the golden tensors %r" % (name,), BUNDLE_AGAIN)
    return folder / name, digest


def read_header(file, size):
    """({key: (shape, offset of its first byte behind the header)}, length of all before the tensors)."""
    if size < 8:
        raise ValueError("it has %d bytes" % size)
    length = int.from_bytes(file.read(8), "little")
    if length > min(LONGEST_HEADER, size - 8):
        raise ValueError("its header claims %d bytes" % length)
    header = json.loads(file.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    header.pop("__metadata__", None)
    placed = sorted((place_of(key, entry) for key, entry in header.items()), key=lambda each: each[1:3])
    end = 0
    for key, first, last, shape in placed:
        if first != end or last - first != 4 * count(shape):
            raise ValueError("%s does not lie where its shape needs it" % key)
        end = last
    if end != size - 8 - length:
        raise ValueError("its tensors take %d bytes, it has %d" % (end, size - 8 - length))
    return {key: (shape, first) for key, first, _, shape in placed}, 8 + length


def place_of(key, entry):
    """(key, first byte, byte behind the last, shape) of one float32 tensor."""
    if not isinstance(entry, dict) or entry.get("dtype") != "F32":
        raise ValueError("%s is no float32 tensor" % key)
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(each) is not int for each in offsets):
        raise ValueError("%s has no place" % key)
    return key, offsets[0], offsets[1], sides(entry.get("shape"))


def read_tensor(file, entries, start, key, kit):
    import numpy as np

    if key not in entries:
        raise ValueError("it has no tensor %s" % key)
    shape = dict(kit["outputs"])[key.partition("/")[2]]
    found, first = entries[key]
    if found != shape:
        raise ValueError("%s has the shape %s, kit.json says %s" % (key, found, shape))
    file.seek(start + first)
    values = np.frombuffer(file.read(4 * count(shape)), "<f4").reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError("%s holds NaN or infinity" % key)
    return values


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
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise KitError(EXIT_USAGE, "cannot read %s: %s" % (path, error.strerror)) from error
    executed, loaded = EXECUTED.search(text), LOADED.search(text)
    if executed is None or int(executed.group(1)) == 0:
        return None
    runs, total = int(executed.group(1)), float(executed.group(2))
    return {"runs": runs, "mean_ms": total / runs, "load_ms": float(loaded.group(1)) if loaded else None}


# --- figures ----------------------------------------------------------------------------------------------------------


def figures_of(actual, expected):
    """SQNR in dB, largest absolute error, relative L2 error; JSON numbers, or None where there is none."""
    import numpy as np

    a, e = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    if not np.isfinite(a).all():
        return {"finite": False, "sqnr_db": None, "max_abs": None, "relative_l2": None}
    error = a - e
    signal, noise = float(np.dot(e, e)), float(np.dot(error, error))
    relative = math.sqrt(noise) / math.sqrt(signal) if signal else (0.0 if not noise else None)
    largest = float(np.abs(error).max()) if error.size else 0.0
    return {"finite": True, "sqnr_db": sqnr_db(signal, noise), "max_abs": largest, "relative_l2": relative}


def sqnr_db(signal, noise):
    """Kept within 200 and -200 dB, which stand for equal and for noise alone: JSON knows no infinity."""
    if not noise:
        return SQNR_LIMIT_DB
    if not signal:
        return -SQNR_LIMIT_DB
    return max(-SQNR_LIMIT_DB, min(SQNR_LIMIT_DB, 10 * (math.log10(signal) - math.log10(noise))))


def with_quaternion_signs(pose, reference):
    """The encodings with each quaternion on the reference's side: q and -q are one rotation, not drift."""
    import numpy as np

    result = np.array(pose)
    flip = (pose[..., 3:7].astype(np.float64) * reference[..., 3:7]).sum(-1, keepdims=True) < 0
    result[..., 3:7] = np.where(flip, -result[..., 3:7], result[..., 3:7])
    return result


def camera_errors(pose, reference):
    """Largest angles in degrees between two encodings (1, S, 9), over all pairs of frames; None where it has none.

    For each pair of frames the one's camera seen from the other: rotation from 0 to 180, direction of translation from
    0 to 90, as the exporter's report takes them.
    """
    import numpy as np

    ours, truth = relative_cameras(pose[0]), relative_cameras(reference[0])
    if ours is None or truth is None or not len(truth[0]):
        return None
    rotation = rotation_angles(truth[0], ours[0])
    theta = angles_between(truth[1], ours[1])
    direction = np.where(standing(ours[1]), 90.0, np.minimum(theta, 180.0 - theta))
    direction = np.where(standing(truth[1]), 0.0, direction)
    return {"rotation_deg_max": float(rotation.max()), "translation_deg_max": float(direction.max())}


def relative_cameras(encoding):
    """(rotations (P, 3, 3), translations (P, 3)) of all pairs i < j; None for NaN or a quaternion of length 0."""
    import numpy as np

    values = encoding.astype(np.float64)
    lengths = np.linalg.norm(values[:, 3:7], axis=-1)
    if not np.isfinite(values).all() or (lengths < 1e-12).any():
        return None
    rotation, translation = rotations(values[:, 3:7] / lengths[:, None]), values[:, :3]
    first, second = np.triu_indices(len(values), k=1)
    relative = rotation[second] @ np.swapaxes(rotation[first], -1, -2)
    return relative, translation[second] - np.einsum("pij,pj->pi", relative, translation[first])


def rotations(unit):
    """(S, 4) quaternions x, y, z, w of length 1 to (S, 3, 3)."""
    import numpy as np

    x, y, z, w = unit.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def rotation_angles(first, second):
    import numpy as np

    delta = np.swapaxes(first, -1, -2) @ second
    axis = np.stack([delta[:, 2, 1] - delta[:, 1, 2], delta[:, 0, 2] - delta[:, 2, 0], delta[:, 1, 0] - delta[:, 0, 1]])
    return np.degrees(np.arctan2(np.linalg.norm(axis, axis=0), np.trace(delta, axis1=-2, axis2=-1) - 1))


def angles_between(first, second):
    import numpy as np

    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.degrees(np.arctan2(sine, (first * second).sum(-1)))


def standing(translation):
    """True for the pairs whose cameras stand in one place, where no direction can be wrong."""
    import numpy as np

    baseline = np.linalg.norm(translation, axis=-1)
    return baseline <= ZERO_BASELINE * max(float(baseline.max()), ZERO_BASELINE)


# --- the verdict ------------------------------------------------------------------------------------------------------


def judge(outputs, simulation, fp32, kit):
    """One entry per output. It passes when it is finite and close enough to what the quantized simulation gave."""
    return [judge_output(name, outputs[name], simulation[name], fp32.get(name), kit) for name in outputs]


def judge_output(name, actual, simulation, fp32, kit):
    against = compared(name, actual, simulation)
    least, widest = kit["sqnr_db_min"], kit["pose_degrees_max"]
    camera = against.get("camera") if widest is not None else None
    good = [against["finite"]]
    good += [] if least is None else [against["sqnr_db"] >= least]
    good += [] if camera is None else [max(camera.values()) <= widest]
    return {
        "output": name,
        "status": "failed" if not all(good) else "not_judged" if least is None else "passed",
        "finite": against["finite"],
        "sqnr_db_min": least,
        "pose_degrees_max": widest if name == "pose_enc" else None,
        "against_simulation": against,
        "against_fp32": None if fp32 is None else compared(name, actual, fp32),
    }


def verdict(accuracy):
    """Of all outputs: the worst one counts."""
    statuses = {entry["status"] for entry in accuracy}
    return "failed" if "failed" in statuses else "passed" if statuses == {"passed"} else "not_judged"


def compared(name, actual, reference):
    if name != "pose_enc":
        return figures_of(actual, reference)
    figures = figures_of(with_quaternion_signs(actual, reference), reference)
    figures["camera"] = camera_errors(actual, reference)
    return figures


def say(text):
    print(text, file=sys.stderr, flush=True)


def summarise(report):
    for entry in report["accuracy"]:
        for group in ("simulation", "fp32"):
            figures = entry["against_" + group]
            if figures is not None:
                print("%-12s %-10s %s" % (entry["output"], entry["status"], line_of(group, figures)))
    if report["times"] is not None:
        print("%(runs)d runs, %(mean_ms).3f ms each on average" % report["times"])


def line_of(group, figures):
    if not figures["finite"]:
        return "against %s: NaN or infinity" % group
    relative = figures["relative_l2"]
    line = "against %-10s SQNR %.2f dB, max abs %.3g, relative L2 %s" % (
        group, figures["sqnr_db"], figures["max_abs"], "-" if relative is None else "%.3g" % relative,
    )  # fmt: skip
    camera = figures.get("camera")
    if camera:
        line += ", rotation %(rotation_deg_max).3g deg, translation %(translation_deg_max).3g deg" % camera
    return line


def write_file(path, content):
    """Write aside and rename, so that nobody ever reads half a file."""
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise KitError(
            EXIT_RESOURCES, "cannot write %s: %s" % (path, error), "free some space, or choose another place"
        ) from error


def list_files(kit):
    """For run_on_device.sh, with tabs between them: role, sha256, name of each file; then the number of outputs."""
    model, golden = kit["model"], kit["golden"]
    if not isinstance(golden, dict):
        raise KitError(EXIT_USAGE, "this kit has no golden tensors", "export again; the validation writes them")
    lines = [("program", model["sha256"], model["program"])]
    if model["weights"] is not None:
        lines.append(("weights", model["weights_sha256"], model["weights"]))
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
    outputs = load_outputs(arguments.outputs, kit)
    accuracy = judge(outputs, simulation, fp32, kit)
    status = verdict(accuracy)
    report = {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "target": kit["target"],
        "plan_digest": kit["plan_digest"],
        "model_sha256": kit["model"]["sha256"],
        "device": arguments.device,
        "outputs": accuracy,
        "accuracy": accuracy,
        "times": load_times(arguments.log),
        "exit_code": EXIT_ACCURACY if status == "failed" else EXIT_OK,
    }
    path = arguments.report or arguments.folder / "device_report.json"
    write_file(path, (json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())
    summarise(report)
    if status == "not_judged":
        say("not judged: kit.json has no limit; export with a profile that has backend_sqnr_db_min")
    say("report: %s" % path)
    return report["exit_code"]


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
