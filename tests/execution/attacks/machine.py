"""Which levels this machine can have, found out without the code under test: where that is broken, tests must fail."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from tamis.execution.bubblewrap import find_bubblewrap
from tamis.execution.levels import Level


def lacks(level: Level) -> str:
    """What this machine lacks for the level; empty if nothing."""
    if level == "process":
        return ""
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists() or platform.machine() not in ("x86_64", "aarch64"):
        return "a kernel with seccomp on x86_64 or aarch64"
    return "" if level == "seccomp" else _lacks_namespaces()


def _lacks_namespaces() -> str:
    bwrap = find_bubblewrap()
    if bwrap is None:
        return "the program bwrap"
    command = [bwrap, "--ro-bind", "/", "/", "--unshare-all", "--as-pid-1", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return f"namespaces: {done.stderr.strip()}" if done.returncode else ""
