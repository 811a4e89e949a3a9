#!/bin/sh
# Run the model on an Android device through adb and say how far its outputs are from the golden tensors.
set -eu

usage() {
    cat <<'TEXT'
usage: run_on_device.sh --runner PATH [options]

Pushes the program, its weights and the golden input to a device, runs them with ExecuTorch's executor_runner, pulls
the outputs, and compares them with the golden tensors. Needs adb, python3 with numpy, and an executor_runner built
for arm64-v8a with XNNPACK (README.md says how).

  --runner PATH      the executor_runner for the device
  --serial SERIAL    the device, where adb sees more than one
  --device-dir DIR   where files go on the device (default: /data/local/tmp/vggt-edge); removed again at the end
  --runs N           runs that are timed (default: 10)
  --threads N        threads of the runner (default: it takes one per fast core)
  --report PATH      where the figures go (default: result.json beside this script)
  --help             this text

exit codes: 0 passed, 2 wrong arguments or unusable files, 3 no adb, no device or no numpy, 4 too far from the
simulation, 6 the runner failed, 7 not enough space
TEXT
}

say() { printf '%s\n' "$*" >&2; }

# code, what happened, what to do next
fail() {
    say "error: $2"
    [ -z "${3:-}" ] || say "  next: $3"
    exit "$1"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
runner='' serial='' device_dir=/data/local/tmp/vggt-edge runs=10 threads='' report="$here/result.json"

while [ "$#" -gt 0 ]; do
    case "$1" in
        --help)
            usage
            exit 0
            ;;
        --runner | --serial | --device-dir | --runs | --threads | --report)
            [ "$#" -ge 2 ] || fail 2 "$1 needs a value" "run_on_device.sh --help"
            case "$1" in
                --runner) runner=$2 ;;
                --serial) serial=$2 ;;
                --device-dir) device_dir=$2 ;;
                --runs) runs=$2 ;;
                --threads) threads=$2 ;;
                --report) report=$2 ;;
            esac
            shift 2
            ;;
        *) fail 2 "unknown argument $1" "run_on_device.sh --help" ;;
    esac
done

# A device's shell reads what adb hands it once more: nothing there may need quoting.
check_arguments() {
    [ -n "$runner" ] || fail 2 "--runner is missing" "build executor_runner for arm64-v8a, see README.md"
    [ -f "$runner" ] || fail 2 "$runner is no file" "build executor_runner for arm64-v8a, see README.md"
    for number in "$runs" "${threads:-1}"; do
        case "$number" in
            '' | *[!0-9]* | 0* | ???????*) fail 2 "$number is no number of runs or threads" "give 1 or more" ;;
        esac
    done
    case "$device_dir" in
        *[!A-Za-z0-9._/-]* | */../* | */..) fail 2 "--device-dir $device_dir" "letters, digits, . _ - / and no .." ;;
        /?*) ;;
        *) fail 2 "--device-dir $device_dir is not absolute" "such as /data/local/tmp/vggt-edge" ;;
    esac
}

check_tools() {
    command -v adb >/dev/null || fail 3 "adb was not found" "install Android's platform-tools"
    command -v python3 >/dev/null || fail 3 "python3 was not found" "install Python 3.8 or later with numpy"
    python3 -c 'import numpy' 2>/dev/null || fail 3 "python3 has no numpy" "python3 -m pip install numpy"
}

sha256_of() {
    if command -v sha256sum >/dev/null; then
        sha256sum -- "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 -- "$1" | cut -d ' ' -f 1
    fi
}

# The column $2 (2 sha256, 3 name) of the files with the role $1.
listed() { printf '%s\n' "$files" | awk -F '\t' -v role="$1" -v column="$2" '$1 == role { print $column }'; }

check_file() {
    name=$(listed "$1" 3)
    [ -f "$here/$name" ] || fail 2 "$name is missing" "copy it from the bundle again"
    [ "$(sha256_of "$here/$name")" = "$(listed "$1" 2)" ] || fail 2 "$name is damaged" "copy it from the bundle again"
}

choose_device() {
    seen=$(adb devices </dev/null) || fail 3 "adb devices failed" "adb kill-server, then again"
    ready=$(printf '%s\n' "$seen" | awk 'NR > 1 && $2 == "device" { print $1 }')
    if [ -n "$serial" ]; then
        printf '%s\n' "$ready" | grep -Fxq -- "$serial" ||
            fail 3 "no device $serial is ready" "adb devices lists them; allow USB debugging on its screen"
        return
    fi
    case "$(printf '%s\n' "$ready" | grep -c .)" in
        0) fail 3 "no device is ready" "connect one, switch USB debugging on and allow this computer on its screen" ;;
        1) serial=$ready ;;
        *) fail 2 "more than one device" "choose one with --serial; adb devices lists them" ;;
    esac
}

on_device() { adb -s "$serial" shell "$@" </dev/null; }

check_device() {
    abis=$(on_device getprop ro.product.cpu.abilist)
    case ",$abis," in
        *arm64-v8a*) ;;
        *) fail 3 "the device runs ${abis:-nothing known}, not arm64-v8a" "take a device with a 64-bit ARM processor" ;;
    esac
    on_device mkdir -p "$remote" || fail 7 "cannot make $remote on the device" "choose another --device-dir"
    needed=65536
    for file in "$runner" "$@"; do
        needed=$((needed + $(wc -c <"$file") / 1024))
    done
    free=$(on_device df -k "$remote" | awk 'END { print $4 }')
    case "$free" in
        '' | *[!0-9]*) say "cannot tell the free space on the device" ;;
        *) [ "$free" -ge "$needed" ] || fail 7 "$free KiB free on the device, $needed needed" "delete something there" ;;
    esac
}

remove_all() {
    status=$?
    trap - EXIT INT TERM HUP
    [ -z "$made" ] || on_device rm -rf "$remote" >/dev/null 2>&1 || say "left on the device: $remote"
    rm -rf -- "$scratch"
    exit "$status"
}

push() {
    adb -s "$serial" push "$1" "$remote/$2" </dev/null >/dev/null || fail 7 "cannot push $1" "check cable and space"
    there=$(on_device sha256sum "$remote/$2" | cut -d ' ' -f 1)
    [ "$there" = "$(sha256_of "$1")" ] || fail 7 "$1 arrived damaged on the device" "check cable and space"
}

# What a code of the runtime means; empty for others.
meaning() {
    case "$1" in
        0x1) echo "XNNPACK found no memory, or another failure inside of it" ;;
        0x14) echo "an operator is not in the runner: build it with EXECUTORCH_BUILD_KERNELS_OPTIMIZED" ;;
        0x20) echo "a backend is not in the runner: build it with EXECUTORCH_BUILD_XNNPACK" ;;
        0x21 | 0x25) echo "no memory: enlarge method_allocator_pool, see README.md" ;;
        0x22) echo "the program cannot be read or mapped on the device" ;;
        0x23) echo "the program is damaged, or the runner is older than its format" ;;
        0x30) echo "the program is for another version of ExecuTorch than the runner" ;;
    esac
}

run_model() {
    set -- "--model_path=$remote/$program" "--inputs=$remote/input_0.bin" "--output_file=$remote/output"
    [ -z "$weights" ] || set -- "$@" "--data_path=$remote/$weights"
    [ -z "$threads" ] || set -- "$@" "--cpu_threads=$threads"
    say "running $runs times"
    ended=0
    on_device "cd $remote && ./executor_runner $* --num_executions=$runs" >"$scratch/runner.log" 2>&1 || ended=$?
    [ "$ended" -ne 0 ] || return 0
    tail -n 20 "$scratch/runner.log" >&2
    code=$(grep -Eio '0x[0-9a-f]+' "$scratch/runner.log" | tail -n 1 | tr 'A-F' 'a-f' | sed 's/^0x0*/0x/')
    case "$ended" in
        132) fail 6 "executor_runner ended with SIGILL" "this processor lacks ARMv8.2 with dot products" ;;
        139) fail 6 "executor_runner ended with SIGSEGV" "export with a later vggt-edge, and report it with the log above" ;;
    esac
    fail 6 "executor_runner failed${code:+ with $code}" "$(meaning "$code")"
}

pull_outputs() {
    index=0
    while [ "$index" -lt "$(listed outputs 3)" ]; do
        adb -s "$serial" pull "$remote/output-$index.bin" "$scratch/" </dev/null >/dev/null ||
            fail 6 "the runner wrote no output-$index.bin" "does the program match this kit.json?"
        index=$((index + 1))
    done
}

check_arguments
check_tools
files=$(python3 "$here/compare.py" --folder "$here" --files)
program=$(listed program 3) weights=$(listed weights 3)
check_file program
[ -z "$weights" ] || check_file weights
check_file input
choose_device

remote="$device_dir/run-$$" made=''
scratch=$(mktemp -d)
trap remove_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
made=yes
check_device "$here/$program" ${weights:+"$here/$weights"} "$here/$(listed input 3)"
say "pushing to $serial"
push "$runner" executor_runner
on_device chmod 755 "$remote/executor_runner"
push "$here/$program" "$program"
[ -z "$weights" ] || push "$here/$weights" "$weights"
push "$here/$(listed input 3)" input_0.bin
run_model
pull_outputs
device=$(on_device getprop ro.product.model | tr -d '\r')
python3 "$here/compare.py" --folder "$here" --outputs "$scratch" --log "$scratch/runner.log" \
    --device "$device" --report "$report"
