"""Says which layers of isolation this machine offers, by trying them."""

from __future__ import annotations

import os
import sys

from .programs import Limits, Program, Status
from .sandbox import Sandbox
from .server import cpu_time

FOREVER = "while True: pass"
HOG = "block = bytearray(400 << 20)"


def probe() -> dict[str, str]:
    """Tries each layer on throw-away programs (under a second); nothing is inferred from version numbers.

    Returns:
        For each layer, a line that begins with ``yes`` or ``no``. ``self-test`` is ``yes`` when programs whose
        verdict is known get it: do not trust a benchmark score of a machine where it is ``no``.
    """
    report = {"fork": "yes", **_try_limits()}  # without fork, not even the import of this package succeeds
    linux = sys.platform == "linux"
    report["orphans"] = (
        "yes: killed after each program, even from a session of their own"
        if linux
        else "no: only the program's process group is killed on this platform"
    )
    report["seccomp"] = "no: not implemented yet (would forbid files, sockets and signals)"
    report["namespace"] = "no: not implemented yet (would give an empty file system and no network)"
    return report


def _try_limits() -> dict[str, str]:
    programs = {
        "right": Program("def f(): return 1", "assert f() == 1"),
        "wrong": Program("def f(): return 2", "assert f() == 1"),
        "loop": Program(FOREVER, ""),
        "hog": Program(HOG, ""),
    }
    with Sandbox(workers=1, limits=Limits(cpu_s=0.2, wall_s=5.0, memory_mb=256)) as sandbox:
        verdicts = dict(zip(programs, sandbox.run_many(list(programs.values())), strict=True))
    found = {name: f"{verdict.status} {verdict.detail}".strip() for name, verdict in verdicts.items()}
    tested = verdicts["right"].passed and verdicts["wrong"].status is Status.FAILED
    timed, bounded = verdicts["loop"].status is Status.TIMEOUT, verdicts["hog"].status is Status.MEMORY
    exact = cpu_time(os.getpid()) > 0
    return {
        "self-test": "yes" if tested else f"no: right -> {found['right']}, wrong -> {found['wrong']}",
        "cpu limit": ("yes" if timed else f"no: {found['loop']}") + ("" if exact else ", in whole seconds only"),
        "memory limit": "yes" if bounded else f"no: this system does not enforce RLIMIT_AS ({found['hog']})",
    }
