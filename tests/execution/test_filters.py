"""The bytes of the syscall filters, proved by an interpreter of our own for both kinds of machine."""

import errno
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from tamis.execution.guest import confinement
from tamis.execution.guest.filters import generate

Number = int | None
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
NAMES = {ALLOW: "allow", EPERM: "EPERM", ENOSYS: "ENOSYS", KILL_PROCESS: "kill"}
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM = 0x40000003, 0x40000028
COLUMN = {"x86_64": 0, "aarch64": 1}

# Every call that may be allowed, with its numbers in the kernel's asm/unistd_64.h and asm-generic/unistd.h. Written
# down here once more so that neither libseccomp nor generate.py is asked about itself.
NUMBERS: dict[str, tuple[Number, Number]] = {
    **{"alarm": (37, None), "brk": (12, 214), "clock_getres": (229, 114), "clock_gettime": (228, 113)},
    **{"clock_nanosleep": (230, 115), "clone": (56, 220), "close": (3, 57), "close_range": (436, 436)},
    **{"dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "epoll_create1": (291, 20), "epoll_ctl": (233, 21)},
    **{"epoll_pwait": (281, 22), "epoll_wait": (232, None), "eventfd2": (290, 19), "exit": (60, 93)},
    **{"exit_group": (231, 94), "fcntl": (72, 25), "fstat": (5, 80), "futex": (202, 98), "getcpu": (309, 168)},
    **{"getcwd": (79, 17), "getegid": (108, 177), "geteuid": (107, 175), "getgid": (104, 176), "getgroups": (115, 158)},
    **{"getitimer": (36, 102), "getpeername": (52, 205), "getpgrp": (111, None), "getpid": (39, 172)},
    **{"getppid": (110, 173), "getrandom": (318, 278), "getresgid": (120, 150), "getresuid": (118, 148)},
    **{"getrusage": (98, 165), "getsockname": (51, 204), "getsockopt": (55, 209), "gettid": (186, 178)},
    **{"gettimeofday": (96, 169), "getuid": (102, 174), "ioctl": (16, 29), "lseek": (8, 62), "madvise": (28, 233)},
    **{"mmap": (9, 222), "mprotect": (10, 226), "mremap": (25, 216), "munmap": (11, 215), "nanosleep": (35, 101)},
    **{"pause": (34, None), "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73)},
    **{"prctl": (157, 167), "prlimit64": (302, 261), "pselect6": (270, 72), "read": (0, 63), "readv": (19, 65)},
    **{"recvfrom": (45, 207), "restart_syscall": (219, 128), "rseq": (334, 293), "rt_sigaction": (13, 134)},
    **{"rt_sigpending": (127, 136), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139)},
    **{"rt_sigtimedwait": (128, 137), "sched_getaffinity": (204, 123), "sched_yield": (24, 124)},
    **{"select": (23, None), "sendto": (44, 206), "set_robust_list": (273, 99), "setitimer": (38, 103)},
    **{"shutdown": (48, 210), "sigaltstack": (131, 132), "socketpair": (53, 199), "sysinfo": (99, 179)},
    **{"time": (201, None), "times": (100, 153), "uname": (63, 160), "write": (1, 64), "writev": (20, 66)},
}
CLONE3 = 435
GLIBC_THREAD, MUSL_THREAD = 0x3D0F00, 0x7D0F00
TOP = 1 << 32  # a bit that the kernel may or may not look at
CASES: list[tuple[str, tuple[int, ...], str]] = [
    # mmap(address, length, prot, flags, fd, offset): PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4
    *[("mmap", (0, 4096, 3, 0x22), "allow"), ("mmap", (0, 4096, 0), "allow"), ("mmap", (0, 4096, 7), "EPERM")],
    *[("mprotect", (4096, 4096, 3), "allow"), ("mprotect", (4096, 4096, 5), "EPERM")],
    *[("mprotect", (4096, 4096, TOP | 4), "EPERM"), ("madvise", (0, 1, 4), "allow"), ("madvise", (0, 1, 12), "EPERM")],
    # clone(flags): a thread, a fork (SIGCHLD 17), a vfork, a thread in a new network, a thread with a pidfd
    *[("clone", (GLIBC_THREAD,), "allow"), ("clone", (MUSL_THREAD,), "allow"), ("clone", (17,), "EPERM")],
    *[("clone", (0x4111,), "EPERM"), ("clone", (GLIBC_THREAD | 0x40000000,), "EPERM"), ("clone", (0,), "EPERM")],
    *[("clone", (GLIBC_THREAD | 0x1000,), "EPERM"), ("clone", (GLIBC_THREAD | TOP,), "EPERM")],
    # futex(word, act): WAIT, private WAKE, WAIT_BITSET by the real clock, private LOCK_PI, CMP_REQUEUE_PI
    *[("futex", (0, 0), "allow"), ("futex", (0, 0x81), "allow"), ("futex", (0, 0x189), "allow")],
    *[("futex", (0, 0x86), "EPERM"), ("futex", (0, 12), "EPERM")],
    # fcntl(fd, command, value): F_SETFL, to O_NONBLOCK and to O_ASYNC; F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETPIPE_SZ
    *[("fcntl", (3, 4, 0x802), "allow"), ("fcntl", (3, 4, 0x2002), "EPERM"), ("fcntl", (3, 8, 1), "EPERM")],
    *[("fcntl", (3, 10, 9), "EPERM"), ("fcntl", (3, 15), "EPERM"), ("fcntl", (3, 1031, 1 << 20), "EPERM")],
    *[("fcntl", (3, command), "allow") for command in (0, 1, 2, 3, 1030)],
    # ioctl(fd, request): FIONBIO, FIOCLEX, FIONCLEX; FIOASYNC, FIOSETOWN, TIOCSTI, TCGETS
    *[("ioctl", (3, request), "allow") for request in (0x5421, 0x5451, 0x5450)],
    *[("ioctl", (3, request), "EPERM") for request in (0x5452, 0x8901, 0x5412, 0x5401)],
    # pipe2(ends, flags): O_CLOEXEC, O_NONBLOCK, a notification pipe
    *[("pipe2", (0, 0x80000), "allow"), ("pipe2", (0, 0x800), "allow"), ("pipe2", (0, 0x80), "EPERM")],
    *[("close_range", (3, 9, 0), "allow"), ("close_range", (3, 9, 2), "EPERM")],
    # socketpair(family, type, protocol): AF_UNIX 1, AF_INET 2, AF_NETLINK 16; stream with flags, datagram
    *[("socketpair", (1, 1, 0), "allow"), ("socketpair", (1, 0x80801, 0), "allow"), ("socketpair", (2, 1, 0), "EPERM")],
    *[("socketpair", (1, 2, 0), "EPERM"), ("socketpair", (16, 3, 0), "EPERM"), ("socketpair", (1, 1, 6), "EPERM")],
    # sendto(fd, data, size, flags, address) and recvfrom: MSG_NOSIGNAL, MSG_OOB 1, an address
    *[("sendto", (3, 4096, 1, 0x4000, 0), "allow"), ("sendto", (3, 4096, 1, 1, 0), "EPERM")],
    *[("sendto", (3, 4096, 1, 0, 4096, 16), "EPERM"), ("sendto", (3, 4096, 1, 0x20000000, 0), "EPERM")],
    *[("recvfrom", (3, 4096, 1, 2), "allow"), ("recvfrom", (3, 4096, 1, 1), "EPERM")],
    # getsockopt(fd, level, option): SO_TYPE; SO_PEERCRED, SO_PEERPIDFD, TCP
    *[("getsockopt", (3, 1, 3), "allow"), ("getsockopt", (3, 1, 17), "EPERM"), ("getsockopt", (3, 1, 77), "EPERM")],
    ("getsockopt", (3, 6, 3), "EPERM"),
    # prlimit64(pid, resource, new, old), sched_getaffinity(pid)
    *[("prlimit64", (0, 7, 0, 4096), "allow"), ("prlimit64", (0, 7, 4096, 0), "EPERM")],
    *[("prlimit64", (1, 7, 0, 4096), "EPERM"), ("sched_getaffinity", (1,), "EPERM")],
    # prctl(option): a thread's name; PR_SET_DUMPABLE, PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_MM
    *[("prctl", (15, 4096), "allow"), ("prctl", (16, 4096), "allow"), ("prctl", (4, 1), "EPERM")],
    *[("prctl", (1, 0), "EPERM"), ("prctl", (22, 2), "EPERM"), ("prctl", (35, 1), "EPERM")],
]


@dataclass(frozen=True)
class Call:
    """What a filter sees (struct seccomp_data). Without arguments, they may be anything."""

    arch: int
    number: int
    arguments: tuple[int, ...] | None = None

    def word(self, offset: int) -> int | None:
        if self.arguments is None and offset >= 16:
            return None
        arguments = (*(self.arguments or ()), *[0] * 6)[:6]
        data = struct.pack("<II7Q", self.number, self.arch, 0, *arguments)
        return int.from_bytes(data[offset : offset + 4], "little")


def outcomes(program: bytes, call: Call) -> set[int]:
    """All that the filter can answer: both ways are taken where a jump depends on an argument that is not known."""
    instructions = list(struct.iter_unpack("<HBBI", program))
    ends: set[int] = set()
    todo: list[tuple[int, int | None]] = [(0, 0)]
    while todo:
        at, value = todo.pop()
        code, yes, no, operand = instructions[at]
        match code:
            case 0x20:  # load a word
                todo.append((at + 1, call.word(operand)))
            case 0x54:  # and
                todo.append((at + 1, None if value is None else value & operand))
            case 0x15 | 0x35:  # jump if equal, if greater or equal
                holds = None if value is None else value == operand if code == 0x15 else value >= operand
                todo += [(at + 1 + yes, value)] * (holds is not False) + [(at + 1 + no, value)] * (holds is not True)
            case 0x06:  # return
                ends.add(operand)
            case _:
                raise AssertionError(f"instruction {at} has code {code:#x}, which this interpreter does not know")
    return ends


def answer(machine: str, name: str, arguments: tuple[int, ...]) -> str | None:
    """What the machine's filter says to one call; None where it has no such call."""
    number = NUMBERS[name][COLUMN[machine]]
    if number is None:
        return None
    (end,) = outcomes(confinement.filter_program(machine), Call(ARCH[machine], number, arguments))
    return NAMES[end]


def require_libseccomp() -> None:
    try:
        generate.libseccomp_version()
    except OSError as error:
        pytest.skip(str(error))
    pytest.importorskip("pyseccomp")


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_cases(machine: str) -> None:
    wrong = [(case, found) for case in CASES if (found := answer(machine, *case[:2])) != case[2]]
    assert wrong == []


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_whatever_the_arguments_only_the_listed_calls_are_ever_allowed(machine: str) -> None:
    program, column = confinement.filter_program(machine), COLUMN[machine]
    listed = {numbers[column] for numbers in NUMBERS.values()} - {None}
    allowed = {number for number in range(601) if ALLOW in outcomes(program, Call(ARCH[machine], number))}
    assert allowed == listed
    assert outcomes(program, Call(ARCH[machine], CLONE3)) == {ENOSYS}
    others = [outcomes(program, Call(ARCH[machine], number)) for number in set(range(601)) - allowed - {CLONE3}]
    assert all(ends == {EPERM} for ends in others)


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_the_same_calls_are_listed_where_the_filters_come_from(machine: str) -> None:
    names = [name for _, group in generate.ALWAYS for name in group.split()]
    checked = [name for _, name, _ in generate.CHECKED]
    assert set(names) | set(checked) == set(NUMBERS)
    assert len(names) == len(set(names))
    assert not set(names) & set(checked)
    program = confinement.filter_program(machine)
    for name in names:  # those without conditions: no argument changes the answer
        number = NUMBERS[name][COLUMN[machine]]
        assert number is None or outcomes(program, Call(ARCH[machine], number)) == {ALLOW}, name


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_calls_of_another_architecture_kill(machine: str) -> None:
    program = confinement.filter_program(machine)
    for arch in ({*ARCH.values(), I386, ARM, 0}) - {ARCH[machine]}:
        assert {frozenset(outcomes(program, Call(arch, number))) for number in range(601)} == {
            frozenset({KILL_PROCESS})
        }


def test_x32_calls_kill() -> None:
    program = confinement.filter_program("x86_64")
    for number in (0x40000000, 0x40000001, 0x40000208, 0xFFFFFFFE):
        assert outcomes(program, Call(ARCH["x86_64"], number)) == {KILL_PROCESS}
    assert outcomes(program, Call(ARCH["x86_64"], 0xFFFFFFFF)) == {EPERM}  # -1: what a debugger puts to skip a call


@pytest.mark.parametrize("machine", generate.MACHINES)
def test_the_bytes_are_what_libseccomp_exports(machine: str) -> None:
    require_libseccomp()
    made, kept = generate.build(machine), confinement.filter_program(machine)
    if generate.libseccomp_version() == generate.MADE_WITH:
        assert made == kept
        return
    for number in range(601):  # another version may order them otherwise; it must mean the same
        call = Call(ARCH[machine], number)
        assert outcomes(made, call) == outcomes(kept, call), number
    for name, arguments, _ in CASES:
        column = NUMBERS[name][COLUMN[machine]]
        if column is not None:
            call = Call(ARCH[machine], column, arguments)
            assert outcomes(made, call) == outcomes(kept, call), (name, arguments)


def test_check_says_when_the_bytes_are_stale(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    require_libseccomp()
    assert generate.main(["--folder", str(tmp_path), "--check"]) == 1
    assert "x86_64.bpf" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert generate.main(["--folder", str(tmp_path)]) == 0
    assert generate.main(["--folder", str(tmp_path), "--check"]) == 0


def test_other_names_of_a_machine_and_unknown_machines() -> None:
    assert confinement.filter_program("arm64") == confinement.filter_program("aarch64")
    with pytest.raises(OSError, match="'riscv64'; there are aarch64, x86_64"):
        confinement.filter_program("riscv64")
    with pytest.raises(ValueError, match="9"):
        confinement.SyscallFilter(b"123456789")
