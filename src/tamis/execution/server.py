"""The fork server: one clean interpreter that forks a child for each program and judges how it ended.

Run by file path, never imported by the programs it runs, and built from the standard library alone: it must start in
milliseconds and stay small, because every fork copies its page tables. ``worker.py`` talks to it over a socket that
is the server's standard input. Only ``send`` and ``receive`` are shared with the parent process.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import sys
import time
import types
from typing import Any, NoReturn

Message = dict[str, Any]

TICK_MS = 20  # how often the child's CPU time is read, so by how much a program may overrun its limit
VERDICT_FD = 3
VERDICT_BYTES = 4096
DETAIL_CHARS = 200
PRELOAD = (
    "abc bisect cmath collections copy dataclasses datetime decimal enum fractions functools heapq itertools "
    "math operator random re statistics string sys typing"
)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None)


def send(channel: socket.socket, message: Message) -> None:
    """Writes one message: four bytes of length, then JSON."""
    body = json.dumps(message).encode()
    channel.sendall(len(body).to_bytes(4, "big") + body)


def receive(channel: socket.socket, deadline: float | None = None) -> Message | None:
    """Reads one message; None when the other side has gone.

    Args:
        channel: The socket to read from.
        deadline: ``time.monotonic()`` in seconds at which to give up; None waits for ever.

    Raises:
        TimeoutError: The deadline passed.
    """
    header = _receive_exactly(channel, 4, deadline)
    body = header and _receive_exactly(channel, int.from_bytes(header, "big"), deadline)
    if not body:
        return None
    message: Message = json.loads(body)
    return message


def _receive_exactly(channel: socket.socket, size: int, deadline: float | None) -> bytes | None:
    data = b""
    while len(data) < size:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = channel.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return data


# ---- in the child: one program ---------------------------------------------------------------------------------------


def become_candidate(request: Message, folder: str, writer: int, nonce: str) -> NoReturn:
    """Turns the freshly forked child into the candidate; writes its verdict and never returns."""
    # Taken now: the program may replace these names, by accident or not.
    write, leave, encode = os.write, os._exit, json.dumps
    try:
        try:
            os.dup2(writer, VERDICT_FD, inheritable=False)
            confine(request["limits"], folder)
            status, detail = execute(request["source"], request["test"])
        except OSError as error:  # from confine: execute lets nothing out
            status, detail = "internal", f"could not confine the child: {error}"
        write(VERDICT_FD, encode({"nonce": nonce, "status": status, "detail": detail}).encode() + b"\n")
    finally:
        leave(0)


def confine(limits: Message, folder: str) -> None:
    """Own session, own folder, no open files but the verdict pipe, and the resource limits."""
    os.setsid()
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(0, 1)  # 0 is /dev/null since the server started
    os.dup2(0, 2)
    os.closerange(VERDICT_FD + 1, 1 << 16)
    os.chdir(folder)
    mega = 1 << 20
    cpu_s = math.ceil(limits["cpu_s"]) + 1  # behind the watching server, which counts in fractions of a second
    set_limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    set_limit(resource.RLIMIT_FSIZE, limits["file_mb"] * mega)
    set_limit(resource.RLIMIT_NOFILE, limits["open_files"])
    set_limit(resource.RLIMIT_CORE, 0)
    try:
        set_limit(resource.RLIMIT_AS, limits["memory_mb"] * mega)
    except (ValueError, OSError):
        if sys.platform != "darwin":  # macOS does not offer this limit
            raise
    gc.enable()


def set_limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Sets a resource limit, lowered to what the machine allows."""
    ceiling = resource.getrlimit(kind)[1]
    top = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, top = min(soft, ceiling), min(top, ceiling)
    resource.setrlimit(kind, (soft, top))


def execute(source: str, test: str) -> tuple[str, str]:
    """Runs the source, then the test, in one fresh module; returns status and detail, whatever they do."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module  # dataclasses and typing look their module up there
    namespace = module.__dict__
    stage = "program"
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), namespace)
        stage = "test"
        exec(compile(test, "<test>", "exec", dont_inherit=True), namespace)
    except MemoryError:
        namespace.clear()  # or there may be too little left to say so
        return "memory", "MemoryError"
    except BaseException as error:  # whatever it was goes into the verdict
        failed = isinstance(error, AssertionError) and stage == "test"
        return "failed" if failed else "error", describe(error, {"<program>": source, "<test>": test})
    return "passed", ""


def describe(error: BaseException, texts: dict[str, str]) -> str:
    """One short line: type, message (or else the line's own text), place."""
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception as second:
        message = f"<no message: its __str__ raised {type(second).__name__}>"
    file, line = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (None, None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in texts:
            file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    if file not in texts or not line:
        return f"{type(error).__name__}: {message}"[:DETAIL_CHARS]
    if not message:
        message = "".join(texts[file].splitlines()[line - 1 : line]).strip()
    place = f" (line {line} of the {file.strip('<>')})"
    return f"{type(error).__name__}: {message}"[: DETAIL_CHARS - len(place)] + place


# ---- in the server: watching it --------------------------------------------------------------------------------------


def judge(request: Message, channel: socket.socket) -> Message | None:
    """Runs one program in a forked child; None when the parent process has gone meanwhile."""
    nonce, folder = os.urandom(8).hex(), os.path.abspath("run")
    os.mkdir(folder, 0o700)
    reader, writer = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        become_candidate(request, folder, writer, nonce)
    os.close(writer)
    limits = request["limits"]
    message, reason = watch(pid, reader, channel, limits["cpu_s"], start + limits["wall_s"])
    wait_status, usage = end(pid)
    os.close(reader)
    remove(folder)
    if reason == "parent gone":
        return None
    status, detail = classify(message, nonce, reason, wait_status, usage, limits)
    cpu_s = usage.ru_utime + usage.ru_stime
    return {"status": status, "detail": detail, "cpu_s": cpu_s, "wall_s": time.monotonic() - start}


def watch(pid: int, reader: int, channel: socket.socket, cpu_s: float, deadline: float) -> tuple[bytes, str]:
    """Waits for the child's verdict; returns it, or why there is none: ``cpu``, ``wall``, ``parent gone``."""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    poller.register(channel, select.POLLIN)  # the parent sends nothing meanwhile: an event means that it is gone
    message = b""
    while True:
        ready = {descriptor for descriptor, _ in poller.poll(TICK_MS)}
        if channel.fileno() in ready:
            return b"", "parent gone"
        if reader in ready:
            chunk = os.read(reader, VERDICT_BYTES)
            message += chunk
            if not chunk or message.endswith(b"\n") or len(message) > VERDICT_BYTES:
                return message, ""
        if time.monotonic() >= deadline:
            return b"", "wall"
        if cpu_time(pid) >= cpu_s:
            return b"", "cpu"
        if not ready and has_ended(pid):  # a descendant still holds the pipe, so no end-of-file comes
            return message, ""


def cpu_time(pid: int) -> float:
    """CPU seconds of another process, by Linux's per-process clock; 0.0 where there is none (RLIMIT_CPU decides)."""
    try:
        return time.clock_gettime((~pid) << 3 | 2)
    except OSError:
        return 0.0


def has_ended(pid: int) -> bool:
    """Whether the child has ended. It stays a zombie, so its number cannot be given to another process yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end(pid: int) -> tuple[int, resource.struct_rusage]:
    """Kills the child with its whole process group, and every process that it left behind elsewhere."""
    for kill in (os.killpg, os.kill):  # the group does not exist before the child's setsid
        with contextlib.suppress(ProcessLookupError, PermissionError):  # a zombie already (macOS: PermissionError)
            kill(pid, signal.SIGKILL)
    _, wait_status, usage = os.wait4(pid, 0)
    kill_orphans()
    return wait_status, usage


def kill_orphans(patience_s: float = 2.0) -> None:
    """Kills descendants that left the process group: they come to this process, which is a child subreaper (Linux).

    Raises:
        SystemExit: Some would not die within the patience; the parent process then starts another server.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:  # the usual case: nobody is left
            return
        for orphan in children():
            os.kill(orphan, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SystemExit("orphans of a program would not die")
        time.sleep(0.001)


def children() -> list[int]:
    """The process numbers of this server's children, from /proc."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # ended since the listing
            continue
        if parent == os.getpid():
            found.append(int(name))
    return found


def remove(folder: str) -> None:
    """Removes the program's folder with whatever it wrote there."""
    try:
        os.rmdir(folder)
    except OSError:  # not empty
        import shutil  # seldom needed, and its imports would make every fork dearer

        shutil.rmtree(folder)


def classify(
    message: bytes, nonce: str, reason: str, wait_status: int, usage: resource.struct_rusage, limits: Message
) -> tuple[str, str]:
    """The status and detail: the child's own verdict if it is a valid one, else what its end tells."""
    if reason:
        return "timeout", f"over {limits[reason + '_s']:g} s of {'CPU' if reason == 'cpu' else 'wall'} time"
    try:
        verdict = json.loads(message)
        if verdict["nonce"] == nonce:
            return str(verdict["status"]), str(verdict["detail"])
    except (ValueError, TypeError, KeyError):
        pass  # no verdict, or not one that this server's child wrote
    code = os.waitstatus_to_exitcode(wait_status)
    cpu_s = usage.ru_utime + usage.ru_stime
    if code in (-signal.SIGXCPU, -signal.SIGKILL) and cpu_s >= limits["cpu_s"]:
        return "timeout", f"over {limits['cpu_s']:g} s of CPU time"
    peak_mb = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    if peak_mb >= 0.8 * limits["memory_mb"]:
        return "memory", f"ended without a verdict at {peak_mb:.0f} MiB"
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return "crashed", f"ended without a verdict ({how})"


# ---- the server's own life -------------------------------------------------------------------------------------------


def set_process_option(option: int, value: int) -> None:
    """Linux's prctl; nothing elsewhere."""
    if sys.platform == "linux" and LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(f"prctl({option}, {value}) was refused")


def main() -> None:
    """Serves programs until the parent process hangs up."""
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.environ.clear()
    for name in PRELOAD.split():
        __import__(name)
    gc.collect()
    gc.disable()
    gc.freeze()  # or the first collection in a child would copy every page
    while (request := receive(channel)) is not None:
        reply = judge(request, channel)
        if reply is None:
            break
        send(channel, reply)
    os.rmdir(os.getcwd())


if __name__ == "__main__":
    main()
