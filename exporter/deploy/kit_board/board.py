"""What ``vggt-edge deploy`` does on a board: look at it, put files in place, and run the kit as long as it is watched.

The whole program comes through standard input, then a line of JSON that says what to do. No word of a request passes a
shell. Needs Python 3.8 or later and nothing else. The answer is the last line of standard output, as JSON.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

PART = ".part"
GRACE_S = 5.0
TIMED_OUT, NOT_FOUND = 124, 127
# tegrastats and nvpmodel lie there, which the PATH of a session without a login may lack.
SYSTEM_PROGRAMS = "/usr/bin:/usr/sbin"


# --- look ----------------------------------------------------------------------------------------------------------


def survey(request):
    """Facts about the board, and which of the files of the request are here already."""
    folder = request["folder"]
    return {
        "python": "%d.%d.%d" % sys.version_info[:3],
        "modules": {name: version_of(name) for name in request["modules"]},
        "model": first_line("/proc/device-tree/model"),
        "system": first_line("/etc/nv_tegra_release") or pretty_system(),
        "power_mode": power_mode(),
        "has_tegrastats": program("tegrastats") is not None,
        "folder": os.path.abspath(folder),
        "is_writable": os.access(existing(folder), os.W_OK | os.X_OK),
        "free_bytes": shutil.disk_usage(existing(folder)).free,
        "files": [state_of(folder, file, request["chunk_bytes"]) for file in request["files"]],
    }


def version_of(name):
    try:
        return str(getattr(importlib.import_module(name), "__version__", ""))
    except Exception:  # also what a broken native library raises
        return None


def existing(path):
    """The nearest folder above that exists, or the path itself."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def first_line(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip("\0\n ") or None
    except OSError:
        return None


def pretty_system():
    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            pairs = [line.rstrip().partition("=") for line in file]
    except OSError:
        return None
    return next((value.strip('"') for name, _, value in pairs if name == "PRETTY_NAME"), None)


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + SYSTEM_PROGRAMS)


def power_mode():
    """Such as ``15W``; None where the board does not tell."""
    tool = program("nvpmodel")
    if tool is None:
        return None
    try:
        done = subprocess.run([tool, "-q"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=10)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.decode(errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("NV Power Mode")), None)


def state_of(folder, file, chunk_bytes):
    """Bytes that need not be sent again, and what they are: the whole file, or the first whole chunks of a part."""
    path = os.path.join(folder, file["path"])
    if os.path.isfile(path) and os.path.getsize(path) == file["size_bytes"] and sha256(path) == file["sha256"]:
        return {"path": file["path"], "is_whole": True, "bytes": file["size_bytes"], "sha256": file["sha256"]}
    size = os.path.getsize(path + PART) if os.path.isfile(path + PART) else 0
    kept = size if size == file["size_bytes"] else min(size // chunk_bytes * chunk_bytes, file["size_bytes"])
    digest = sha256(path + PART, kept) if kept else ""
    return {"path": file["path"], "is_whole": False, "bytes": kept, "sha256": digest}


def sha256(path, length=None):
    """Of the first ``length`` bytes, or of all."""
    digest, left = hashlib.sha256(), float("inf") if length is None else length
    with open(path, "rb") as file:
        while left > 0:
            block = file.read(int(min(left, 1 << 20)))
            if not block:
                break
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


# --- put -----------------------------------------------------------------------------------------------------------


def keep(request):
    """Give each part its name if it is what was sent; else remove it."""
    damaged = []
    for file in request["files"]:
        path = os.path.join(request["folder"], file["path"])
        if sha256(path + PART) == file["sha256"]:
            os.replace(path + PART, path)
        else:
            os.remove(path + PART)
            damaged.append(file["path"])
    return {"damaged": damaged}


# --- run -----------------------------------------------------------------------------------------------------------


def attend(request):
    """Run a program until it ends, its time is over, or standard input does: that is the end of the connection."""
    name, *arguments = request["command"]
    command = [program(name) or name, *arguments]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print("error: cannot run %s: %s" % (name, error.strerror), file=sys.stderr, flush=True)
        os._exit(NOT_FOUND)
    threading.Thread(target=end_with_input, args=(child,), daemon=True).start()
    try:
        code = child.wait(request["limit_s"])
    except subprocess.TimeoutExpired:
        code = TIMED_OUT
    end(child)
    os._exit(code if code >= 0 else 128 - code)  # the thread still waits for standard input


def end_with_input(child):
    while os.read(0, 65536):
        pass
    end(child)


def end(child):
    """The program and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(GRACE_S)
        except (ProcessLookupError, PermissionError):
            return
        except subprocess.TimeoutExpired:
            continue


def main():
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # the end of standard input says the same, and leaves time to end
    request = json.loads(sys.stdin.buffer.raw.readline())  # byte by byte: what follows is not this program's
    try:
        answer = {"survey": survey, "keep": keep, "attend": attend}[request["do"]](request)
    except OSError as error:
        answer = {"error": "%s: %s" % (error.strerror, error.filename), "errno": error.errno}
    print(json.dumps(answer), flush=True)


main()
