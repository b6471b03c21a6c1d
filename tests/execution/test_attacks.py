"""The attack suite at every level that this machine has: no wrong answer passes, no act succeeds, nothing stays."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest

from tamis.execution import Limits, Program, Sandbox, Status, Verdict
from tamis.execution import sandbox as harness
from tamis.execution.levels import STRONG, Level

from .attacks import ABUSES, FORBIDDEN, LEGITIMATE, WRONG_ANSWERS, Case, in_process
from .attacks.abuses import ABUSE_LIMITS, LOOPS, TIME
from .attacks.leftovers import LEAVES, LOOKS, SEES, SETS
from .attacks.machine import lacks
from .attacks.operations import OPERATIONS
from .attacks.traces import Scene, nothing_left

CANARY = "canary-4f81c0d2"
WRONG_LIMITS = Limits(cpu_s=1.0, wall_s=2.0, memory_mb=512)
CPU_OVERRUN_S, WALL_OVERRUN_S = 0.5, 1.5  # beyond a limit, on a busy machine
PR_SET_CHILD_SUBREAPER = 36

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left behind is looked up in /proc")


def cases(group: Sequence[Case]) -> pytest.MarkDecorator:
    """One test for each case, by its name."""
    return pytest.mark.parametrize("case", group, ids=[case.name for case in group])


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder, a secret in the environment, and orphans of programs that come to this process."""
    folder, before = tmp_path_factory.mktemp("working"), os.getcwd()
    reap = ctypes.CDLL(None).prctl
    reap(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ["TAMIS_SECRET"] = CANARY
    os.chdir(folder)
    yield folder
    os.chdir(before)
    del os.environ["TAMIS_SECRET"]
    reap(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def need(level: Level) -> Level:
    """The level, if this machine can have it; skips the test, with the reason, if not."""
    if lacking := lacks(level):
        pytest.skip(f"the level {level} needs {lacking}")
    return level


@pytest.fixture(scope="module", params=get_args(Level))
def level(request: pytest.FixtureRequest) -> Level:
    """Each level that this machine has."""
    return need(request.param)


@pytest.fixture(scope="module", params=STRONG)
def strong_level(request: pytest.FixtureRequest) -> Level:
    """Each that shuts the system out."""
    return need(request.param)


def run_cases(
    level: Level, group: Sequence[Case], limits: Limits, folder: Path, facts: Mapping[str, object] | None = None
) -> dict[str, Verdict]:
    """Runs all cases in one sandbox, which must leave nothing behind; returns the verdicts by name."""
    with nothing_left(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the level process is no sandbox
        with Sandbox(workers=6, isolation=level, limits=limits) as sandbox:
            verdicts = sandbox.run_many([case.program(facts) for case in group])
    return {case.name: verdict for case, verdict in zip(group, verdicts, strict=True)}


@pytest.fixture(scope="module")
def wrong(level: Level, surroundings: Path) -> dict[str, Verdict]:
    return run_cases(level, WRONG_ANSWERS, WRONG_LIMITS, surroundings)


@cases(WRONG_ANSWERS)
def test_a_wrong_answer_does_not_pass(case: Case, wrong: dict[str, Verdict], level: Level) -> None:
    verdict = wrong[case.name]
    assert verdict.status in case.ends, verdict
    assert verdict.level == level


@pytest.fixture(scope="module")
def scene(strong_level: Level, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(tmp_path_factory.mktemp("scene"), CANARY)
    yield scene
    scene.close()


@pytest.fixture(scope="module")
def acts(strong_level: Level, scene: Scene, surroundings: Path) -> dict[str, Verdict]:
    before = sorted(scene.folder.iterdir())
    facts = scene.facts(harness=harness.__file__)
    verdicts = run_cases(strong_level, FORBIDDEN, Limits(cpu_s=2.0, wall_s=10.0, open_files=64), surroundings, facts)
    assert sorted(scene.folder.iterdir()) == before
    assert scene.secret.read_text() == CANARY
    return verdicts


@cases(FORBIDDEN)
def test_a_forbidden_act_is_denied(case: Case, acts: dict[str, Verdict]) -> None:
    verdict = acts[case.name]
    assert verdict.status in case.ends, verdict
    assert CANARY not in verdict.detail


def test_no_forbidden_act_reached_anybody(acts: dict[str, Verdict], scene: Scene) -> None:
    assert acts
    assert scene.visits() == []


@pytest.fixture(scope="module")
def abuses(level: Level, surroundings: Path) -> dict[str, Verdict]:
    return run_cases(level, ABUSES, ABUSE_LIMITS, surroundings)


@cases(ABUSES)
def test_abuse_ends_at_its_limits(case: Case, abuses: dict[str, Verdict]) -> None:
    verdict = abuses[case.name]
    assert verdict.status in case.ends, verdict
    assert verdict.wall_s < ABUSE_LIMITS.wall_s + WALL_OVERRUN_S, verdict
    assert verdict.cpu_s < ABUSE_LIMITS.cpu_s + CPU_OVERRUN_S, verdict


def test_cpu_time_ends_loops_long_before_wall_time_does(level: Level, surroundings: Path) -> None:
    loops = [case for case in LOOPS if case.ends == TIME]
    verdicts = run_cases(level, loops, Limits(cpu_s=0.1, wall_s=60.0, memory_mb=256), surroundings)
    unlike = {name: verdict for name, verdict in verdicts.items() if "CPU time" not in verdict.detail}
    assert unlike == {}
    assert all(verdict.cpu_s < 0.1 + CPU_OVERRUN_S for verdict in verdicts.values()), verdicts


@pytest.fixture(scope="module")
def legitimate(level: Level, surroundings: Path) -> dict[str, Verdict]:
    return run_cases(level, LEGITIMATE, Limits(), surroundings)


@cases(LEGITIMATE)
def test_an_odd_but_right_program_passes(case: Case, legitimate: dict[str, Verdict]) -> None:
    assert legitimate[case.name].status is Status.PASSED, legitimate[case.name]


@pytest.fixture(scope="module")
def operated(level: Level, surroundings: Path) -> dict[str, Verdict]:
    return run_cases(level, OPERATIONS, Limits(), surroundings)


@cases(OPERATIONS)
def test_an_operation_on_an_object_passes_or_is_said_to_be_unsupported(
    case: Case, operated: dict[str, Verdict]
) -> None:
    assert operated[case.name].status in case.ends, operated[case.name]


@pytest.fixture(scope="module")
def alone(level: Level, surroundings: Path) -> Iterator[Sandbox]:
    """A sandbox with one worker, so that what runs next meets the same servers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sandbox = Sandbox(workers=1, isolation=level)
    with sandbox:
        yield sandbox


@pytest.mark.parametrize("kind", LEAVES)
def test_a_program_finds_nothing_of_the_one_before(kind: str, alone: Sandbox) -> None:
    first = alone.run(Program(LEAVES[kind], "assert leave() is None"))
    assert first.status is Status.PASSED, first
    second = alone.run(Program(LOOKS[kind], "assert look() == []"))
    assert second.status is Status.PASSED, second


@pytest.mark.parametrize("kind", SETS)
def test_a_test_finds_nothing_of_the_one_before(kind: str, alone: Sandbox) -> None:
    source = "def f(): return 42\n"
    first = alone.run(Program(source, SETS[kind] + "assert f() == 42"))
    assert first.status is Status.PASSED, first
    second = alone.run(Program(source, SEES[kind] + "assert f() == 42"))
    assert second.status is Status.PASSED, second


def test_output_of_programs_reaches_nobody(level: Level, capfd: pytest.CaptureFixture[str]) -> None:
    source = "import os\ndef f():\n    for fd in (1, 2): os.write(fd, b'loud')\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with Sandbox(workers=1, isolation=level) as sandbox:
            assert sandbox.run(Program(f"print('loud')\n{source}", "assert f() is None")).passed
    assert capfd.readouterr() == ("", "")


def fooled_in_process(tmp_path: Path) -> set[str]:
    """The wrong answers that pass where program and test share a process."""
    programs = [case.program() for case in WRONG_ANSWERS]
    texts = tmp_path / "cases.json"
    texts.write_text(json.dumps([[program.prelude, program.source, program.test] for program in programs]))
    with texts.open() as file:  # a file, not a pipe: one of the tricks reads it again
        command = [sys.executable, "-I", in_process.__file__]
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=120, check=True)
    return {case.name for case, passed in zip(WRONG_ANSWERS, json.loads(done.stdout), strict=True) if passed}


def test_the_tricks_are_real(tmp_path: Path) -> None:
    expected = {case.name for case in WRONG_ANSWERS if case.fools_in_process}
    assert fooled_in_process(tmp_path) == expected
    assert len(expected) >= 60


def test_the_suite_is_as_large_as_it_says() -> None:
    groups = {"wrong": WRONG_ANSWERS, "forbidden": FORBIDDEN, "abuse": ABUSES, "legitimate": LEGITIMATE}
    sizes = {name: len(group) for name, group in groups.items()}
    least = {"wrong": 36, "forbidden": 20, "abuse": 29, "legitimate": 20}
    assert all(sizes[name] >= least[name] for name in least), sizes
    for group in groups.values():
        assert len({case.name for case in group}) == len(group)
