"""The layers that a child of the candidate server is confined by: capabilities, Landlock, seccomp, resource limits.

Each function turns one layer on for this process and for all that it forks, and there is no way back. In the server,
once, after its preload: ``share_one_arena``, ``filter_program``, ``drop_privileges``, ``restrict_with_landlock``, in
this order. In each forked child: ``set_limits``, and last of all ``SyscallFilter.install``, which forbids the others.
Whatever cannot be turned on raises OSError that names the layer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Sequence
from typing import NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
FILTERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "filters")
STACK_BYTES = 8 << 20
M_ARENA_MAX = -8  # <malloc.h>

# <linux/prctl.h>, <linux/capability.h>
PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 22, 23, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
# <linux/seccomp.h>
SECCOMP_MODE_FILTER = 2
INSTRUCTION_BYTES = 8
# <linux/landlock.h>; the numbers of the system calls are the same on every machine.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
FILE_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))  # (from this ABI on, that many rights, from bit 0)
NET_RIGHTS_ABI, SCOPES_ABI = 4, 6
BIND_AND_CONNECT, SCOPE_SOCKETS_AND_SIGNALS = 0b11, 0b11


def _fail(layer: str, act: str, code: int | None = None) -> NoReturn:
    """Raises the OSError of a failed call of the C library."""
    code = ctypes.get_errno() if code is None else code
    raise OSError(code, f"{layer}: {act}: {os.strerror(code)}")


def _prctl(option: int, first: int, second: int = 0) -> int:
    """Linux's prctl, which takes a variable list of arguments and reads longs."""
    values = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    result: int = LIBC.prctl(option, *values)
    return result


# ---- privileges ------------------------------------------------------------------------------------------------------


def drop_privileges() -> None:
    """Gives up every capability, and the possibility to gain any by executing something. For one-threaded processes.

    The process keeps its user, so it can still fork, and signal and trace its own children.

    Raises:
        OSError: The system refused it, or is not Linux.
    """
    if sys.platform != "linux":
        _fail("no new privileges", f"there is no such thing on {sys.platform}", errno.ENOSYS)
    if _prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
        _fail("no new privileges", "prctl(PR_SET_NO_NEW_PRIVS) was refused")
    _empty_bounding_set()
    if _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL) != 0:
        _fail("capabilities", "the ambient set could not be emptied")
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)  # 0: this process
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, in two words each
    if LIBC.capset(header, nothing) != 0:
        _fail("capabilities", "capset to none was refused")


def _empty_bounding_set() -> None:
    capability = 0
    while _prctl(PR_CAPBSET_READ, capability) >= 0:  # fails past the last one that this kernel knows
        if _prctl(PR_CAPBSET_DROP, capability) != 0:
            if ctypes.get_errno() == errno.EPERM:  # an ordinary user: it has none to lose, and can gain none now
                return
            _fail("capabilities", f"number {capability} could not be dropped from the bounding set")
        capability += 1


# ---- Landlock --------------------------------------------------------------------------------------------------------


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def restrict_with_landlock() -> int:
    """Denies every access to files, TCP and the processes outside, as far as this kernel's Landlock knows them.

    Open descriptors keep working, and so do signals to the process's own children. Needs ``drop_privileges`` before.
    Landlock does not hide that a file exists (``stat``): that is the syscall filter's part.

    Returns:
        The kernel's Landlock ABI: 1 denies files, 4 also TCP, 6 also signals and abstract sockets to processes
        outside. 0 where the kernel has no Landlock, or a container's filter hides it: nothing was denied then.

    Raises:
        OSError: There is a Landlock, but it could not be turned on.
    """
    if sys.platform != "linux":
        return 0
    abi: int = LIBC.syscall(
        LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(LANDLOCK_CREATE_RULESET_VERSION)
    )
    if abi < 1:  # ENOSYS: not built in; EOPNOTSUPP: not on since boot; EPERM: a container's filter
        return 0
    denied = _Ruleset((1 << max(count for since, count in FILE_RIGHTS if abi >= since)) - 1, 0, 0)
    if abi >= NET_RIGHTS_ABI:
        denied.net = BIND_AND_CONNECT
    if abi >= SCOPES_ABI:
        denied.scopes = SCOPE_SOCKETS_AND_SIGNALS
    size = 8 * (3 if abi >= SCOPES_ABI else 2 if abi >= NET_RIGHTS_ABI else 1)
    ruleset = LIBC.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(denied), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        _fail("landlock", f"the rules of ABI {abi} were refused")
    try:
        if LIBC.syscall(LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
            _fail("landlock", "landlock_restrict_self was refused")
    finally:
        os.close(ruleset)
    return abi


# ---- seccomp ---------------------------------------------------------------------------------------------------------


def filter_program(machine: str) -> bytes:
    """The compiled syscall filter for one kind of machine (``os.uname().machine``); see ``filters/generate.py``.

    Raises:
        OSError: There is none for this machine.
    """
    name = {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)
    known = sorted(file[:-4] for file in os.listdir(FILTERS) if file.endswith(".bpf"))
    if name not in known:
        text = f"seccomp: no syscall filter for the machine {machine!r}; there are {', '.join(known)}"
        raise OSError(errno.ENOSYS, text)
    with open(os.path.join(FILTERS, name + ".bpf"), "rb") as file:
        return file.read()


class _Instructions(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("first", ctypes.c_void_p))


class SyscallFilter:
    """A seccomp filter, made ready once in the server so that a forked child has one system call to do.

    Args:
        program: Classic BPF instructions, as ``filter_program`` gives them.

    Raises:
        ValueError: The bytes are no whole number of instructions.
    """

    def __init__(self, program: bytes) -> None:
        if not program or len(program) % INSTRUCTION_BYTES:
            raise ValueError(f"A filter is a multiple of {INSTRUCTION_BYTES} bytes; this one has {len(program)}.")
        self._memory = ctypes.create_string_buffer(program, len(program))  # kept: _instructions points into it
        self._instructions = _Instructions(len(program) // INSTRUCTION_BYTES, ctypes.addressof(self._memory))
        self._address = ctypes.addressof(self._instructions)

    def rehearse(self) -> None:
        """Installs it in a throw-away child, so that a kernel that refuses it is found out at once, in the server.

        Raises:
            OSError: As ``install``.
        """
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.install()
                code = 0
            except OSError as error:
                code = error.errno or 1
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            _fail("seccomp", "a child could not install the filter", max(code, 1))

    def install(self) -> None:
        """Puts this process under the filter. Needs ``drop_privileges`` before, in this process or in its parent.

        Raises:
            OSError: The kernel refused it, or the system is not Linux.
        """
        if sys.platform != "linux":
            _fail("seccomp", f"there is no such thing on {sys.platform}", errno.ENOSYS)
        if _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, self._address) != 0:
            _fail("seccomp", "the kernel refused the filter")


# ---- resource limits -------------------------------------------------------------------------------------------------


ResourceLimit = tuple[int, tuple[int, int]]


def resource_limits(cpu_s: int, memory_mb: int, file_mb: int, open_files: int) -> list[ResourceLimit]:
    """Arguments for ``resource.setrlimit``, each limit lowered to what the machine allows at most.

    Args:
        cpu_s: CPU time in whole seconds: SIGXCPU then, SIGKILL a second later.
        memory_mb: Address space in MiB (macOS does not offer this limit).
        file_mb: Size of any one file that it writes, in MiB.
        open_files: Number of open files.
    """
    mega = 1 << 20
    wanted = [
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_FSIZE, file_mb * mega, file_mb * mega),
        (resource.RLIMIT_NOFILE, open_files, open_files),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_STACK, STACK_BYTES, STACK_BYTES),
    ]
    if sys.platform != "darwin":
        wanted.append((resource.RLIMIT_AS, memory_mb * mega, memory_mb * mega))
    limits = []
    for kind, soft, hard in wanted:
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        limits.append((kind, (soft, hard)))
    return limits


def set_limits(limits: Sequence[ResourceLimit]) -> None:
    """Sets what ``resource_limits`` gave.

    Raises:
        OSError: The system refused a limit.
    """
    for kind, values in limits:
        try:
            resource.setrlimit(kind, values)
        except (OSError, ValueError, OverflowError) as error:
            code = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
            raise OSError(code, f"resource limits: limit {kind} = {values} was refused: {error}") from error


def share_one_arena() -> None:
    """Lets all threads of this process, and of those it forks, allocate from one place.

    glibc reserves 64 MiB of address space for each thread that finds the others busy: as many threads as fit into the
    limit on an idle machine would then not start on a busy one.
    """
    if hasattr(LIBC, "mallopt"):  # musl has none, and no such reserves
        LIBC.mallopt(M_ARENA_MAX, 1)
