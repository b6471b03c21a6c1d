"""The parent's side: order, repeats, lost workers, and that nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tamis.execution import Limits, Program, Sandbox, SandboxClosedError, Status, probe
from tamis.execution import server as server_module

QUICK = Limits(cpu_s=0.3, wall_s=1.0, memory_mb=256)
SERVER = Path(server_module.__file__).name


def command(pid: int) -> str:
    """The command line of a process; empty when it has gone or is a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def processes_in(folder: str) -> list[int]:
    """Processes whose working folder is within the given one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/cwd").startswith(folder):
                found.append(int(name))
        except OSError:
            continue
    return found


def server_pids(parent: int | None = None) -> list[int]:
    """The fork servers that this (or the given) process has started."""
    pids = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        if f"execution/{SERVER}" in command(int(name)):
            status = Path(f"/proc/{name}/status").read_text()
            if f"PPid:\t{parent or os.getpid()}\n" in status:
                pids.append(int(name))
    return pids


def wait_until(condition: Callable[[], bool], patience_s: float = 5.0) -> bool:
    """Polls the condition; False when the patience ran out."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_verdicts_come_in_input_order() -> None:
    programs = [Program("", f"raise ValueError({i})") for i in range(30)]
    programs[3] = Program("import time; time.sleep(0.2)", "raise ValueError(3)")  # a slow one is overtaken
    with Sandbox(workers=2) as sandbox:
        details = [verdict.detail for verdict in sandbox.run_many(programs)]
        assert sandbox.run_many([]) == []
    assert [int(detail.split()[1]) for detail in details] == list(range(30))


def test_identical_programs_run_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = Program(f"open({str(log)!r}, 'a').write('x')", "")
    with Sandbox(workers=2) as sandbox:
        verdicts = sandbox.run_many([program, Program("", "assert False"), program, program])
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "passed", "passed"]
    assert log.read_text() == "x"


def test_a_worker_killed_from_outside_is_replaced() -> None:
    with Sandbox(workers=1) as sandbox:
        sandbox.run(Program("", ""))
        (first,) = server_pids()
        os.kill(first, signal.SIGKILL)
        assert sandbox.run(Program("", "")).passed
        (second,) = server_pids()
    assert first != second


def test_a_worker_killed_at_work_is_retried() -> None:
    slow = Program("import time; time.sleep(0.4)", "")
    with Sandbox(workers=1) as sandbox:
        sandbox.run(Program("", ""))
        (pid,) = server_pids()
        threading.Timer(0.15, os.kill, (pid, signal.SIGKILL)).start()
        assert sandbox.run(slow).passed


def test_a_worker_lost_twice_is_internal_and_the_next_program_runs() -> None:
    with Sandbox(workers=1) as sandbox:
        verdict = sandbox.run(Program("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", ""))
        assert verdict.status is Status.INTERNAL
        assert "died" in verdict.detail
        assert not verdict.passed
        assert sandbox.run(Program("", "")).passed


ORPHANS = {
    "child": "if os.fork() == 0: time.sleep(50)",
    "own session": "if os.fork() == 0:\n  os.setsid()\n  time.sleep(50)",
    "double fork": "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(50)\n  os._exit(0)",
    "waits for ever": "os.fork()\ntime.sleep(50)",
    "keeps the pipe": "if os.fork() == 0: time.sleep(50)\nos._exit(0)",
}


@pytest.mark.parametrize("kind", ORPHANS)
def test_no_process_survives_its_program(kind: str, tmp_path: Path) -> None:
    source = f"import os, time\nos.chdir({str(tmp_path)!r})\n{ORPHANS[kind]}\n"
    with Sandbox(workers=1, limits=QUICK) as sandbox:
        verdict = sandbox.run(Program(source, ""))
        assert verdict.status in (Status.PASSED, Status.TIMEOUT, Status.CRASHED)
        assert processes_in(str(tmp_path)) == []


def test_close_kills_a_running_program_at_once(tmp_path: Path) -> None:
    forever = Program(f"import os, time\nos.chdir({str(tmp_path)!r})\ntime.sleep(50)", "")
    sandbox = Sandbox(workers=2, limits=Limits(wall_s=60.0))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            sandbox.run_many([forever, Program(forever.source, "pass"), Program("", "")])
        except SandboxClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert wait_until(lambda: len(processes_in(str(tmp_path))) == 2)
    start = time.monotonic()
    sandbox.close()
    thread.join(5)
    assert time.monotonic() - start < 3
    assert len(errors) == 1
    assert processes_in(str(tmp_path)) == []
    assert server_pids() == []


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from tamis.execution import Limits, Program, Sandbox
source = "import os, time; os.chdir({folder!r}); open('started', 'w').close(); time.sleep(50)"
with Sandbox(workers=2, limits=Limits(wall_s=60.0)) as sandbox:
    sandbox.run_many([Program(source, str(i)) for i in range(5)])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_parent(
    number: signal.Signals, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = SCRIPT.format(path=sys.path, folder=str(tmp_path))
    # A killed parent cannot remove its workers' empty folders: keep them out of the machine's temporary folder.
    environment = {**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("workers"))}
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, env=environment)
    assert wait_until(lambda: len(processes_in(str(tmp_path))) == 2 and (tmp_path / "started").exists(), 20)
    servers = server_pids(parent.pid)
    assert len(servers) == 2
    parent.send_signal(number)
    parent.wait(10)
    assert wait_until(lambda: processes_in(str(tmp_path)) == [])
    assert wait_until(lambda: [pid for pid in servers if SERVER in command(pid)] == [])


def test_many_programs_leave_no_process_and_no_open_file() -> None:
    with Sandbox(workers=2) as sandbox:
        sandbox.run_many([Program("", str(i)) for i in range(4)])
        before = len(os.listdir("/proc/self/fd"))
        verdicts = sandbox.run_many([Program(f"x = {i}", f"assert x % 2 == {i % 2}") for i in range(200)])
        assert all(verdict.passed for verdict in verdicts)
        (one, *_) = server_pids()
        assert len(os.listdir(f"/proc/{one}/fd")) < 8
        assert len(os.listdir("/proc/self/fd")) <= before
    assert server_pids() == []


def test_what_a_program_wrote_is_removed() -> None:
    with Sandbox(workers=1) as sandbox:
        assert sandbox.run(Program("import os; os.makedirs('a/b'); open('a/b/c', 'w').close()", "")).passed
        folder = os.readlink(f"/proc/{server_pids()[0]}/cwd")
        assert os.listdir(folder) == []
    assert not os.path.exists(folder)


def test_a_closed_sandbox_says_so() -> None:
    sandbox = Sandbox(workers=1)
    sandbox.close()
    sandbox.close()
    with pytest.raises(SandboxClosedError, match="closed"):
        sandbox.run(Program("", ""))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        Sandbox(workers=0)
    with pytest.raises(ValueError, match="'docker'"):
        Sandbox(isolation="docker")  # type: ignore[arg-type]


def test_a_fork_of_the_owner_is_refused() -> None:
    with Sandbox(workers=1) as sandbox:
        pid = os.fork()
        if pid == 0:
            try:
                sandbox.run(Program("", ""))
            except RuntimeError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert sandbox.run(Program("", "")).passed


def test_probe_is_honest() -> None:
    report = probe()
    assert report["fork"] == report["self-test"] == "yes"
    assert report["cpu limit"].startswith("yes")
    for level in ("seccomp", "namespace"):
        assert report[level].startswith("no: not implemented yet")
