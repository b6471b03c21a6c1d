"""The form of a forbidden act: the program tells what came of it, "denied" or what it got."""

from __future__ import annotations

import textwrap

from tamis.execution import Status

from .cases import Case

REPORT = """
import ctypes, errno, os, signal, socket, sys, time

REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS}
LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    # name: (x86_64, aarch64)
    "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51), "clone3": (435, 435),
    "delete_module": (176, 106), "execveat": (322, 281), "fanotify_init": (300, 262), "fsopen": (430, 430),
    "getdents64": (217, 61), "init_module": (175, 105), "inotify_init1": (294, 26), "io_setup": (206, 0),
    "io_uring_setup": (425, 425), "kcmp": (312, 272), "keyctl": (250, 219), "memfd_create": (319, 279),
    "mount": (165, 40), "move_pages": (279, 239), "mq_open": (240, 180), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "openat2": (437, 437), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pivot_root": (155, 41), "pkey_mprotect": (329, 288), "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60),
    "recvmsg": (47, 212), "rt_sigqueueinfo": (129, 138), "sched_setaffinity": (203, 122), "seccomp": (317, 277),
    "semget": (64, 190), "sendmsg": (46, 211), "setns": (308, 268), "settimeofday": (164, 170), "shmget": (29, 194),
    "statx": (332, 291), "swapon": (167, 224), "symlinkat": (266, 36), "syslog": (103, 116), "tgkill": (234, 131),
    "unshare": (272, 97), "userfaultfd": (323, 282), "vmsplice": (278, 75), "waitid": (247, 95),
}

def call(name, *arguments):
    number = NUMBERS[name][os.uname().machine == "aarch64"]
    result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if type(a) is int else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name} was refused")
    return result

def told(act):
    try:
        got = act()
    except (ImportError, LookupError) as error:  # a module, or a codec, which is a module too
        return f"denied: {error}"
    except OSError as error:
        return f"denied: {error}" if error.errno in REFUSALS else f"not denied, but {error!r}"
    return f"got {got!r}"[:300]

def attempt():
    return [told(act) for act in ACTS]
"""

DENIED = """
for answer in attempt():
    assert answer.startswith("denied"), answer
"""


def act(name: str, source: str, *ends: Status) -> Case:
    """A case that defines ACTS; it ends in ``passed`` when all were denied, or in one of the other statuses named."""
    return Case(name, REPORT + textwrap.dedent(source), DENIED, ends=frozenset({Status.PASSED, *ends}))
