"""Programs in the place of adb, of the device's getprop and of executor_runner; a folder is the device."""

from __future__ import annotations

# What the script asks of adb: devices, push, pull, and shell, which reads its words once more, as a device does.
ADB = """#!/bin/sh
echo "$*" >>"$FAKE/calls"
[ "$1" != devices ] || { printf 'List of devices attached\\n'; cat "$FAKE/devices"; exit 0; }
[ "$1" = -s ] || exit 9
shift 2
# Where the device has /data/local/tmp.
place() { printf '%s' "$*" | sed "s|/data/local/tmp|${DATA:-/data/local/tmp}|g"; }
case "$1" in
    push) to=$(place "$3"); cp "$2" "$to"; [ -z "${DAMAGE:-}" ] || printf x >>"$to" ;;
    pull) cp "$(place "$2")" "$3" ;;
    shell) shift; sh -c "$(place "$*")" ;;
    *) exit 9 ;;
esac
"""
GETPROP = """#!/bin/sh
case "$1" in
    ro.product.cpu.abilist) echo "${ABIS:-arm64-v8a,armeabi-v7a}" ;;
    ro.product.model) echo "Phone $SERIAL" ;;
esac
"""
# In executor_runner's place: answers with the simulation, or with what it is told to.
RUNNER = """#!{python}
import os, sys
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
assert os.path.getsize(flags["model_path"]), flags
with open(os.environ["FAKE"] + "/flags", "w") as file:
    file.write("\\n".join(sorted(sys.argv[1:])))
if os.environ.get("SIGNAL"):
    os.kill(os.getpid(), int(os.environ["SIGNAL"]))
if os.environ.get("FAIL"):
    sys.exit("E executorch: Loading of method forward failed with status " + os.environ["FAIL"])
if len(open(flags["inputs"], "rb").read()) != {input_bytes}:
    sys.exit("wrong input")
for index, source in enumerate({outputs!r}):
    data = open(source, "rb").read()
    open(flags["output_file"] + "-%d.bin" % index, "wb").write(data)
print("Model executed successfully %s time(s) in 30.0 ms." % flags["num_executions"])
"""
