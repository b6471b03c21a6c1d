"""The probe and the doctor, on this machine and on machines that refuse what a container or an old kernel refuses."""

import os
import subprocess
import sys
from typing import Any

import pytest

from tamis.execution import Sandbox, SandboxUnavailableError, probe
from tamis.execution.__main__ import main
from tamis.execution.guest import trials
from tamis.execution.guest.filters import generate
from tamis.execution.probing import strongest

LAYERS = ["fork", "no new privileges", "seccomp", "landlock", "bubblewrap"]
LEVELS = ["level namespace", "level seccomp", "level process"]
RESULTS = ["self-test", "cpu limit", "memory limit"]
DOCTOR = "import runpy; runpy.run_module('tamis.execution', run_name='__main__')"
# What Docker's default filter refuses of what bubblewrap needs: new namespaces by any call, and mounts.
DOCKER = """
import errno, pyseccomp as s
machine = s.SyscallFilter(s.ALLOW)
refuse = s.ERRNO(errno.EPERM)
for name in ("unshare", "setns", "mount", "umount2", "pivot_root"):
    machine.add_rule(refuse, name)
for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
    machine.add_rule(refuse, "clone", s.Arg(0, s.MASKED_EQ, bit, bit))
machine.add_rule(s.ERRNO(errno.ENOSYS), "clone3")
"""
# A kernel without seccomp filters and Landlock.
OLD = """
machine.add_rule(s.ERRNO(errno.EINVAL), "prctl", s.Arg(0, s.EQ, 22))
machine.add_rule(s.ERRNO(errno.ENOSYS), "seccomp")
machine.add_rule(s.ERRNO(errno.ENOSYS), 444)
"""


def on_machine(filters: str, code: str) -> tuple[int, str]:
    """The exit status of ``code``, and what it printed, with all white space as single blanks."""
    try:
        generate.libseccomp_version()
    except OSError as error:
        pytest.skip(str(error))
    pytest.importorskip("pyseccomp")
    script = f"{filters}\nmachine.load()\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, " ".join(done.stdout.split())


def test_probe_says_yes_or_no_to_everything() -> None:
    report = probe()
    assert list(report) == LAYERS + LEVELS + RESULTS
    assert {line.partition(":")[0] for line in report.values()} <= {"yes", "no"}
    level = strongest(report)
    if level is None:
        with pytest.raises(SandboxUnavailableError):
            Sandbox(workers=1)
        return
    with Sandbox(workers=1) as sandbox:
        assert sandbox.level == level
    assert report["self-test"] == f"yes: at the level {level}"
    assert report["cpu limit"] == "yes"
    assert report["memory limit"] == "yes"


def test_doctor_tells_what_is_on(capsys: pytest.CaptureFixture[str]) -> None:
    report = probe()
    status = main([])
    printed = " ".join(capsys.readouterr().out.split())
    assert status == (strongest(report) is None)
    for layer, line in report.items():
        assert f"{layer} {line.partition(':')[0]} " in printed
    if level := strongest(report):
        assert f'isolation="auto" takes the level {level}.' in printed
        assert "no path, no socket, no process" in printed
        assert ("Landlock: no files" in printed) == report["landlock"].startswith("yes")
        assert ("no network" in printed) == (level == "namespace")


def test_in_a_container_that_refuses_namespaces_the_level_is_seccomp() -> None:
    status, printed = on_machine(DOCKER, DOCTOR)
    assert status == 0
    assert "bubblewrap no " in printed
    assert "level namespace no " in printed
    assert "level seccomp yes" in printed
    assert 'isolation="auto" takes the level seccomp.' in printed
    if "there is no program `bwrap`" not in printed:
        assert "--security-opt seccomp=unconfined" in printed
        assert "bwrap: " in printed


def test_where_nothing_isolates_the_doctor_fails_and_says_why() -> None:
    status, printed = on_machine(DOCKER + OLD, DOCTOR)
    assert status == 1
    assert "seccomp no " in printed
    assert "landlock no this kernel has none" in printed
    assert "level process yes" in printed
    assert 'isolation="auto" refuses' in printed


def test_where_nothing_isolates_auto_refuses_and_process_runs() -> None:
    code = """
import warnings
from tamis.execution import Program, Sandbox, SandboxUnavailableError
try:
    Sandbox(workers=1)
except SandboxUnavailableError as error:
    print("refused:", error)
warnings.simplefilter("ignore")
with Sandbox(workers=1, isolation="process") as sandbox:
    print(sandbox.run(Program("def f(): return 1", "assert f() == 1")).status)
"""
    status, printed = on_machine(DOCKER + OLD, code)
    assert status == 0
    assert printed.startswith("refused: ")
    assert "seccomp" in printed
    assert printed.endswith(" passed")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "exit status is 1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("trial", "line"),
    [
        (lambda: "yes", "yes"),
        (lambda: 1 / 0, "no: division by zero"),
        (lambda: os._exit(3), "no: the trial ended without a word (exit code 3)"),
        (lambda: trials.refused(lambda: None, "nothing"), "no: it was turned on, but nothing was not refused"),
    ],
)
def test_a_trial_that_goes_wrong_is_a_no(trial: Any, line: str) -> None:
    assert trials.attempt(trial) == line
