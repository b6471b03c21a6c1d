"""The system calls that a candidate may make, and why; writes them as the seccomp filters beside this file.

    python -m tamis.execution.guest.filters.generate          # write x86_64.bpf and aarch64.bpf
    python -m tamis.execution.guest.filters.generate --check  # compare them with what libseccomp makes now

Everything that is not listed fails with EPERM, so that a program gets an exception that it can handle. libseccomp does
the translation (through the package ``pyseccomp``); a program that uses the sandbox needs neither.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import errno
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
MADE_WITH = "2.5.4"  # the libseccomp that wrote the bytes; another version may order the same rules differently
MACHINES = ("aarch64", "x86_64")

WORD = (1 << 64) - 1
# <asm-generic/mman-common.h>, <linux/fcntl.h>, <linux/sched.h>, <linux/futex.h>, <asm-generic/ioctls.h>,
# <linux/socket.h>, <linux/prctl.h>: the same numbers on both machines.
PROT_EXEC = 0x4
O_NONBLOCK, O_ASYNC, O_CLOEXEC = 0x800, 0x2000, 0x80000
CLONE_THREAD = 0x10000
# CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | SETTLS | PARENT_SETTID | CHILD_CLEARTID, and musl's DETACHED.
THREAD_FLAGS = 0x3D0F00 | 0x400000
FUTEX_OPTIONS = 0x80 | 0x100  # FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME
FUTEX_ACTS = (0, 1, 3, 4, 9, 10)  # WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAIT_BITSET, WAKE_BITSET
FCNTL_ACTS = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
F_SETFL = 4
IOCTL_ACTS = (0x5421, 0x5450, 0x5451)  # FIONBIO, FIONCLEX, FIOCLEX
MADVISE_ACTS = (0, 3, 4, 8, 14, 15)  # NORMAL, WILLNEED, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE
AF_UNIX, SOCK_STREAM, SOCK_TYPE_MASK = 1, 1, 0xF
SOL_SOCKET, SOCKET_OPTIONS = 1, (3, 4, 38, 39)  # SO_TYPE, SO_ERROR, SO_PROTOCOL, SO_DOMAIN
SEND_FLAGS = 0x40 | 0x4000  # MSG_DONTWAIT | MSG_NOSIGNAL
RECEIVE_FLAGS = 0x2 | 0x40 | 0x100  # MSG_PEEK | MSG_DONTWAIT | MSG_WAITALL
PR_SET_NAME, PR_GET_NAME = 15, 16


@dataclass(frozen=True)
class Condition:
    """Argument number ``argument`` (0 to 5), after ``mask``, must equal ``value``."""

    argument: int
    value: int
    mask: int = WORD


def is_(argument: int, value: int) -> Condition:
    """The argument is exactly this value."""
    return Condition(argument, value)


def only(argument: int, flags: int, needed: int = 0) -> Condition:
    """The argument has no bits outside ``flags``, and all bits of ``needed``."""
    return Condition(argument, needed, WORD & ~flags | needed)


def without(argument: int, flags: int) -> Condition:
    """The argument has none of these bits."""
    return Condition(argument, 0, flags)


# Names that a machine does not have (the second line of some groups: aarch64 lacks them) are left out there.
ALWAYS: tuple[tuple[str, str], ...] = (
    # Input and output on descriptors that are open already: 0-2 are /dev/null, 3 is the channel. `newfstatat` is not
    # here although glibc 2.33 to 2.38 makes os.fstat of it: a filter cannot see whether its path is empty, and with a
    # path it tells which files exist. CPython's own uses of fstat carry on without.
    ("descriptors", "read write readv writev lseek close fstat dup dup3 poll select dup2 ppoll pselect6"),
    # asyncio's event loop. No timerfd, signalfd, inotify: nothing in the standard library needs them here.
    ("events", "epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 getsockname getpeername shutdown"),
    ("memory", "brk munmap mremap"),
    ("threads", "set_robust_list rseq sched_yield getcpu exit exit_group gettid"),
    # For the process itself: handlers, masks, timers. Nothing that sends a signal to a process of its choice.
    ("signals", "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack restart_syscall"),
    ("timers", "setitimer getitimer alarm pause nanosleep clock_nanosleep"),
    ("time", "clock_gettime clock_getres gettimeofday time times getrusage"),
    ("chance", "getrandom"),
    # What it is and where: no more than it could guess.
    ("identity", "getpid getppid getpgrp getuid geteuid getgid getegid getresuid getresgid getgroups"),
    ("machine", "uname sysinfo getcwd"),
)

CHECKED: tuple[tuple[str, str, tuple[Condition, ...]], ...] = (
    # No new machine code: what the interpreter and its preloaded modules contain must do.
    ("no code", "mmap", (without(2, PROT_EXEC),)),
    ("no code", "mprotect", (without(2, PROT_EXEC),)),
    *(("give memory back", "madvise", (is_(2, act),)) for act in MADVISE_ACTS),
    # A new thread, with exactly the flags of a C library's: no process, no namespace, no pidfd.
    ("threads only", "clone", (only(0, THREAD_FLAGS, needed=CLONE_THREAD),)),
    # No priority-inheriting futexes: no use for Python, and a long list of kernel bugs.
    *(("waiting", "futex", (Condition(1, act, WORD & ~FUTEX_OPTIONS),)) for act in FUTEX_ACTS),
    # Not F_SETOWN, F_SETSIG, FIOASYNC, O_ASYNC: they let the kernel send signals to others. Not F_SETPIPE_SZ.
    *(("descriptor flags", "fcntl", (is_(1, act),)) for act in FCNTL_ACTS),
    ("non-blocking", "fcntl", (is_(1, F_SETFL), without(2, O_ASYNC))),
    *(("non-blocking", "ioctl", (is_(1, act),)) for act in IOCTL_ACTS),
    ("close all", "close_range", (is_(2, 0),)),  # without the flag that splits the table of descriptors
    # No notification pipes (O_EXCL), which are a part of the kernel's key rings.
    ("pipes", "pipe", ()),
    ("pipes", "pipe2", (only(1, O_CLOEXEC | O_NONBLOCK),)),
    # asyncio wakes itself through such a pair. It leads nowhere else.
    ("pairs", "socketpair", (is_(0, AF_UNIX), Condition(1, SOCK_STREAM, SOCK_TYPE_MASK), is_(2, 0))),
    # To the connected end only; no sendmsg and recvmsg, which pass descriptors; no MSG_OOB (CVE-2025-38236).
    ("pairs", "sendto", (only(3, SEND_FLAGS), is_(4, 0))),
    ("pairs", "recvfrom", (only(3, RECEIVE_FLAGS),)),
    # Not SO_PEERPIDFD, which gives a handle on the process at the other end.
    *(("pairs", "getsockopt", (is_(1, SOL_SOCKET), is_(2, option))) for option in SOCKET_OPTIONS),
    # About itself only, and no new limit.
    ("own limits", "prlimit64", (is_(0, 0), is_(2, 0))),
    ("own processors", "sched_getaffinity", (is_(0, 0),)),
    ("thread names", "prctl", (is_(0, PR_SET_NAME),)),
    ("thread names", "prctl", (is_(0, PR_GET_NAME),)),
)

# The C library then takes clone, whose flags a filter can read; clone3 keeps them in memory, out of its sight.
MISSING = ("clone3",)


def build(machine: str) -> bytes:
    """The filter for one machine, as libseccomp exports it. Works on any machine that has libseccomp.

    Raises:
        ModuleNotFoundError: The package pyseccomp is not installed.
    """
    import pyseccomp  # only who changes the filters needs it

    allowed = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    target, native = getattr(pyseccomp.Arch, machine.upper()), pyseccomp.system_arch()
    if target != native:
        allowed.add_arch(target)
        allowed.remove_arch(native)
    allowed.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)  # 32-bit calls, and x32 on x86_64

    def number(name: str) -> int:
        found: int = pyseccomp.resolve_syscall(native, name)
        if found == -1:  # other negative numbers stand for calls that only other machines have
            raise ValueError(f"This libseccomp ({libseccomp_version()}) knows no system call {name!r}.")
        return found

    for _, names in ALWAYS:
        for name in names.split():
            allowed.add_rule(pyseccomp.ALLOW, number(name))
    for _, name, conditions in CHECKED:
        arguments = [pyseccomp.Arg(c.argument, pyseccomp.MASKED_EQ, c.mask, c.value) for c in conditions]
        allowed.add_rule(pyseccomp.ALLOW, number(name), *arguments)
    for name in MISSING:
        allowed.add_rule(pyseccomp.ERRNO(errno.ENOSYS), number(name))
    with tempfile.TemporaryFile() as file:
        allowed.export_bpf(file)
        file.seek(0)
        return file.read()


def libseccomp_version() -> str:
    """The version of the machine's libseccomp.

    Raises:
        OSError: There is none.
    """
    name = ctypes.util.find_library("seccomp")
    if name is None:
        raise OSError(errno.ENOENT, "libseccomp is not installed (Debian and Ubuntu: apt install libseccomp2)")
    library = ctypes.CDLL(name)
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return ".".join(str(part) for part in library.seccomp_version().contents)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or compares the files; returns the exit status."""
    parser = argparse.ArgumentParser(description="Makes the sandbox's syscall filters with libseccomp.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file would change")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are (default: beside this one)")
    options = parser.parse_args(arguments)
    check: bool = options.check
    version = libseccomp_version()
    print(f"libseccomp {version}; the files were made with {MADE_WITH}")
    if not check and version != MADE_WITH:
        print(f"Note the new version in MADE_WITH of {__file__}.")
    changed = 0
    for machine in MACHINES:
        path, program = options.folder / f"{machine}.bpf", build(machine)
        same = path.is_file() and path.read_bytes() == program
        changed += not same
        if not check:
            path.write_bytes(program)
        state = "unchanged" if same else "differs" if check else "written"
        print(f"{path.name}: {len(program) // 8} instructions, {state}")
    return int(check and changed > 0)


if __name__ == "__main__":
    sys.exit(main())
