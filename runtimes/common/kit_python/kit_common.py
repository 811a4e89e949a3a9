"""Code that the device kits in Python share: strict JSON, limits, figures, verdicts, the form of ``result.json``.

Lies beside ``build_and_verify.py`` or ``compare.py``. Needs Python 3.8 or later; numpy for the figures. The rules are
those of the kits for iOS and Android (docs/how-to/kit-result.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys

EXIT_OK, EXIT_USAGE, EXIT_TOOLCHAIN, EXIT_ACCURACY, EXIT_LOWERING, EXIT_RESOURCES = 0, 2, 3, 4, 6, 7
RESULT_SCHEMA_VERSION = 1
PASSED, FAILED, NOT_JUDGED = "passed", "failed", "not_judged"
BUNDLE_AGAIN = "copy the whole folder from the bundle again"
MOST_DB, WIDEST_ANGLE = 200.0, 180.0
LONGEST_JSON = 16 << 20
DEEPEST_JSON = 32
# Some 40 tensors have a header of a few kilobytes.
LONGEST_HEADER = 1 << 20
# Whole numbers up to here are the same in every JSON parser.
LARGEST_NUMBER = 1 << 53
POSE, POSE_LENGTH = "pose_enc", 9
ZERO_BASELINE = 1e-6
RELATIVE_FLOOR = 1e-3
TENSOR_BYTES = {"F32": 4, "U8": 1}


class KitError(Exception):
    """Ends the run with ``code``; ``remedy`` is what to do next."""

    def __init__(self, code, what, remedy=""):
        super().__init__(what + ("\n  next: " + remedy if remedy else ""))
        self.code = code


# --- JSON that every parser reads the same --------------------------------------------------------------------------


def read_json(path, longest=LONGEST_JSON):
    """The value in a file. ``KitError`` for one that is missing, too long, or no strict JSON."""
    try:
        with path.open("rb") as file:
            data = file.read(longest + 1)
        if len(data) > longest:
            raise ValueError("it has more than %d bytes" % longest)
        return parse_json(data)
    except (OSError, ValueError) as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), BUNDLE_AGAIN) from error


def parse_json(data):
    """RFC 8259 in UTF-8, without what parsers read differently; ``ValueError`` for everything else."""
    text = data.decode("utf-8")
    check_depth(text)
    value = json.loads(
        text,
        object_pairs_hook=distinct,
        parse_constant=no_constant,
        parse_float=finite_number,
        parse_int=whole_number,
    )
    # A half of a surrogate pair can only come from an escape, and cannot be written as UTF-8 again.
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def check_depth(text):
    """``ValueError`` for JSON that is nested too deep; the parser itself would run out of stack."""
    depth, in_string, escaped = 0, False, False
    for character in text:
        if in_string:
            in_string, escaped = escaped or character != '"', character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > DEEPEST_JSON:
                raise ValueError("it is nested more than %d levels deep" % DEEPEST_JSON)
        elif character in "]}":
            depth -= 1


def distinct(pairs):
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("it holds a key twice")
    return table


def no_constant(text):
    raise ValueError("%s is no number" % text)


def finite_number(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("%s is too large" % text[:40])
    return value


def whole_number(text):
    if len(text) > 400 or not math.isfinite(float(text)):
        raise ValueError("a whole number of %d digits is too large" % len(text))
    return int(text)


# --- fields of kit.json ---------------------------------------------------------------------------------------------


def text_of(table, key):
    """A field that is text; ``ValueError`` for another one, as of the functions below."""
    value = field_of(table, key)
    if not isinstance(value, str):
        raise ValueError("%s is %.40r instead of text" % (key, value))
    return value


def field_of(table, key):
    if not isinstance(table, dict) or key not in table:
        raise ValueError("%s is missing" % key)
    return table[key]


def filled(table, key, kind):
    """A field that is a list or a table (``kind``) with something in it."""
    value = field_of(table, key)
    if not isinstance(value, kind) or not value:
        raise ValueError("%s is no %s with something in it" % (key, "table" if kind is dict else "list"))
    return value


def whole_of(table, key, highest=LARGEST_NUMBER):
    value = field_of(table, key)
    if type(value) is not int or not 0 <= value <= highest:
        raise ValueError("%s is %.40r instead of a whole number from 0 to %d" % (key, value, highest))
    return value


def limit_of(table, key, highest):
    """A limit from above 0 to ``highest``; None where the kit says null, which judges nothing."""
    value = field_of(table, key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= highest:
        raise ValueError("%s is %.40r instead of a number above 0 and at most %g" % (key, value, highest))
    return float(value)


def shape_of(value):
    """A tuple of sides that are whole and not negative, of a tensor that a machine can hold."""
    if not isinstance(value, list) or any(type(side) is not int or side < 0 for side in value):
        raise ValueError("%.40r is no shape" % (value,))
    if count(value) > LARGEST_NUMBER:
        raise ValueError("%.40r is too large a shape" % (value,))
    return tuple(value)


def count(shape):
    total = 1
    for side in shape:
        total *= side
    return total


def outputs_of(kit):
    """[(name, shape)] of one or more different outputs, in the order of the program."""
    listed = [(text_of(one, "name"), shape_of(field_of(one, "shape"))) for one in filled(kit, "outputs", list)]
    if len(dict(listed)) < len(listed):
        raise ValueError("an output is there twice")
    return listed


def digest_of(table, key):
    value = text_of(table, key)
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("%s is no sha256" % key)
    return value


def is_plain_name(name):
    """A file name that stays in its folder on every system."""
    return isinstance(name, str) and name not in (".", "..") and bool(re.fullmatch(r"[^/\\\x00-\x1f\x7f]+", name))


def sha256_of(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


# --- safetensors ----------------------------------------------------------------------------------------------------


def read_header(file, size, pixels=False):
    """({key: (shape, offset of its first byte behind the header, type)}, length of all before the tensors).

    pixels: whether tensors of 8 bits may be among them, besides float32.
    """
    if size < 8:
        raise ValueError("it has %d bytes" % size)
    length = int.from_bytes(file.read(8), "little")
    if length > min(LONGEST_HEADER, size - 8):
        raise ValueError("its header claims %d bytes" % length)
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    header.pop("__metadata__", None)
    placed = sorted((place_of(key, entry, pixels) for key, entry in header.items()), key=lambda each: each[1:3])
    end = 0
    for key, first, last, shape, kind in placed:
        if first != end or last - first != TENSOR_BYTES[kind] * count(shape):
            raise ValueError("%s does not lie where its shape needs it" % key)
        end = last
    if end != size - 8 - length:
        raise ValueError("its tensors take %d bytes, it has %d" % (end, size - 8 - length))
    return {key: (shape, first, kind) for key, first, _, shape, kind in placed}, 8 + length


def place_of(key, entry, pixels):
    """(key, first byte, byte behind the last, shape, type) of one tensor."""
    kind = entry.get("dtype") if isinstance(entry, dict) else None
    if kind != "F32" and not (pixels and kind == "U8"):
        raise ValueError("%s is no float32 tensor" % key)
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(each) is not int for each in offsets):
        raise ValueError("%s has no place" % key)
    return key, offsets[0], offsets[1], shape_of(entry.get("shape")), kind


def tensor_values(file, key, entry, start):
    """The values of one entry of ``read_header``."""
    import numpy as np

    shape, first, kind = entry
    file.seek(start + first)
    values = np.frombuffer(file.read(TENSOR_BYTES[kind] * count(shape)), {"F32": "<f4", "U8": "u1"}[kind])
    values = values.reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError("%s holds NaN or infinity" % key)
    return values


# --- figures --------------------------------------------------------------------------------------------------------


def drift(values, reference):
    """How far values are from their reference, in double precision: JSON numbers. Both finite, of one shape.

    A relative error is taken against the larger of the reference's magnitude and a thousandth of its root mean square.
    """
    import numpy as np

    a, e = values.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    error = np.abs(a - e)
    signal, noise = float(np.dot(e, e)), float(np.dot(error, error))
    norm = math.sqrt(float(np.dot(a, a))) * math.sqrt(signal)
    floor = RELATIVE_FLOOR * math.sqrt(signal / e.size) if e.size else 0.0
    scale = np.maximum(np.abs(e), floor)
    relative = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)
    return {
        "cosine": max(-1.0, min(1.0, float(np.dot(a, e)) / norm)) if norm else 0.0 if noise else 1.0,
        "sqnr_db": sqnr_db(signal, noise),
        "max_abs": float(error.max()) if error.size else 0.0,
        "p99_abs": float(np.percentile(error, 99)) if error.size else 0.0,
        "max_rel": float(relative.max()) if error.size else 0.0,
        "p99_rel": float(np.percentile(relative, 99)) if error.size else 0.0,
        "relative_l2": math.sqrt(noise) / math.sqrt(signal) if signal else None if noise else 0.0,
    }


def sqnr_db(signal, noise):
    """Kept within 200 and -200 dB, which stand for equal and for noise alone: JSON knows no infinity."""
    if not noise:
        return MOST_DB
    if not signal:
        return -MOST_DB
    return max(-MOST_DB, min(MOST_DB, 10 * (math.log10(signal) - math.log10(noise))))


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
    return {"rotation_degrees": float(rotation.max()), "translation_degrees": float(direction.max())}


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


# --- verdicts -------------------------------------------------------------------------------------------------------


class Judge:
    """Judges predictions; of every output the worst one counts.

    simulation, fp32: arrays by the names of outputs; fp32 may lack some. sqnr_db_min, pose_degrees_max: limits, None
    for none. unlike_first: predictions whose outputs are not byte for byte those of the first.
    """

    def __init__(self, simulation, fp32, sqnr_db_min, pose_degrees_max=None):
        self.simulation, self.fp32 = simulation, fp32
        self.sqnr_db_min, self.pose_degrees_max = sqnr_db_min, pose_degrees_max
        self.unlike_first, self.first, self.worst = 0, None, {}
        shape = simulation[POSE].shape if POSE in simulation else (1, 1, POSE_LENGTH)
        if len(shape) != 3 or shape[0] != 1 or shape[1] < 1 or shape[2] != POSE_LENGTH:
            raise KitError(EXIT_USAGE, "%s has the shape %s instead of (1, frames, 9)" % (POSE, shape), BUNDLE_AGAIN)

    def add(self, outputs):
        """Judge a prediction. A prediction with the same bytes as the first needs no second comparison."""
        content = {name: outputs[name].tobytes() for name in self.simulation}
        if self.first is None:
            self.first = content
        elif content == self.first:
            return
        else:
            self.unlike_first += 1
        for name in self.simulation:
            entry = self.entry(name, outputs[name])
            self.worst[name] = min(self.worst.get(name, entry), entry, key=badness)

    def entry(self, name, values):
        """The entry of ``name`` for ``outputs`` in ``result.json``."""
        import numpy as np

        finite, reference = bool(np.isfinite(values).all()), self.simulation[name]
        against = self.drift(name, values, reference) if finite else None
        entry = {
            "output": name,
            "finite": finite,
            "sqnr_db_min": self.sqnr_db_min,
            "against_simulation": against,
            "against_fp32": self.drift(name, values, self.fp32[name]) if finite and name in self.fp32 else None,
        }
        if name == POSE:
            entry["pose"] = camera_errors(values, reference) if finite else None
            entry["pose_degrees_max"] = self.pose_degrees_max
        entry["status"] = self.status(entry, has_angles=name == POSE and values.size > POSE_LENGTH)
        return entry

    def drift(self, name, values, reference):
        return drift(with_quaternion_signs(values, reference) if name == POSE else values, reference)

    def status(self, entry, has_angles):
        """NaN fails whatever the limits; without a limit nothing passes."""
        limit, angle = self.sqnr_db_min, self.pose_degrees_max
        if not entry["finite"] or (limit is not None and entry["against_simulation"]["sqnr_db"] < limit):
            return FAILED
        if has_angles and angle is not None and (entry["pose"] is None or max(entry["pose"].values()) > angle):
            return FAILED
        return NOT_JUDGED if limit is None else PASSED

    @property
    def outputs(self):
        """The entries, in the order of the simulation."""
        return [self.worst[name] for name in self.simulation if name in self.worst]


def badness(entry):
    """The smallest is the worst."""
    against = entry["against_simulation"]
    return entry["status"] != FAILED, -math.inf if against is None else against["sqnr_db"]


def verdict(entries):
    """The verdict on all outputs together. An empty list does not pass."""
    states = [entry["status"] for entry in entries]
    if FAILED in states:
        return FAILED
    return NOT_JUDGED if not states or NOT_JUDGED in states else PASSED


def summary(entry):
    """A line of text about an entry, for the terminal."""
    against = entry["against_simulation"]
    if against is None:
        return "%-12s %-10s NaN or infinity" % (entry["output"], entry["status"])
    limit = entry["sqnr_db_min"]
    line = "%-12s %-10s SQNR %.2f dB against the simulation, " % (entry["output"], entry["status"], against["sqnr_db"])
    line += "no limit" if limit is None else "at least %g dB asked" % limit
    line += ", max abs %.3g" % against["max_abs"]
    if entry["against_fp32"] is not None:
        line += ", %.2f dB against FP32" % entry["against_fp32"]["sqnr_db"]
    if entry.get("pose"):
        line += ", rotation %(rotation_degrees).3g deg, translation %(translation_degrees).3g deg" % entry["pose"]
    return line


# --- result.json ----------------------------------------------------------------------------------------------------


def result_of(kit, entries):
    """The part of ``result.json`` that every kit has."""
    return {
        "schema_version": RESULT_SCHEMA_VERSION,
        "status": verdict(entries),
        "target": kit["target"],
        "plan_digest": kit["plan_digest"],
        "outputs": entries,
        "accuracy": entries,  # the older name
    }


def measured_ms(samples):
    """Milliseconds of the measured predictions; None where there are none."""
    if not samples:
        return None
    median, p90 = nearest(samples, 0.5), nearest(samples, 0.9)
    return {"median": median, "p90": p90, "min": min(samples), "max": max(samples), "count": len(samples)}


def quantiles(samples):
    """Median, 90th and 99th percentile in milliseconds, under the names that Jetson results have always had."""
    if not samples:
        return None
    names = (("median_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99))
    return {**{name: nearest(samples, share) for name, share in names}, "runs": len(samples)}


def nearest(samples, share):
    """A percentile by the nearest rank."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def write_result(path, result):
    content = json.dumps(result, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_file(path, content.encode())


def write_file(path, content):
    """Write aside and rename, so that nobody ever reads half a file; a link that lies there already is not followed."""
    aside = path.with_name(path.name + ".part")
    try:
        if aside.is_symlink() or aside.is_file():
            aside.unlink()
        with aside.open("xb") as file:
            file.write(content)
        aside.replace(path)
    except OSError as error:
        raise KitError(
            EXIT_RESOURCES, "cannot write %s: %s" % (path, error), "free some space, or choose another place"
        ) from error


def say(text):
    print(text, file=sys.stderr, flush=True)


def between(lowest, highest):
    """A type for argparse: a whole number in a range."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError("must be a whole number, at least %d and at most %d" % (lowest, highest))
        return value

    return parse
