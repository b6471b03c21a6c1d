"""Acts on the network, on processes and on the kernel that no program may do where the system is shut out.

Every act is harmless should it succeed: signals have the number 0, other calls have arguments that do nothing.
"""

from __future__ import annotations

from tamis.execution import Status

from .acts import DENIED, REPORT, act
from .cases import Case

NETWORK = (
    act(
        "connects",
        """
        def connect(family, kind, address):
            with socket.socket(family, kind) as one:
                one.settimeout(1)
                one.connect(address)
                one.send(b"$CANARY")
                return address
        ACTS = [
            lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", $PORT)),
            lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", $UDP_PORT)),
            lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", $PORT)),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0$ABSTRACT"),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "$UNIX_PATH"),
            lambda: socket.create_connection(("127.0.0.1", $PORT), timeout=1),
        ]
        """,
    ),
    act(
        "turns a socket pair into a way out",
        """
        try:
            one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        except PermissionError:
            one, two = socket.socketpair()
        ACTS = [
            lambda: one.sendto(b"$CANARY", "\\0$ABSTRACT_DATAGRAM"), lambda: one.connect("\\0$ABSTRACT_DATAGRAM"),
            lambda: two.bind("\\0left-$PORT"), lambda: one.sendmsg([b"x"]),
            lambda: socket.send_fds(one, [b"x"], [3]), lambda: call("recvmsg", two.fileno(), bytes(56), 0x40),
        ]
        """,
    ),
    act(
        "raw and special sockets",
        """
        KINDS = [(16, 3), (17, 3), (40, 1), (38, 5), (2, 3), (1, 1), (1, 5), (31, 3)]  # netlink, packet, vsock, alg ...
        ACTS = [lambda kind=kind: socket.socket(*kind) for kind in KINDS]
        """,
    ),
    act(
        "listens",
        """
        def listen(family, address):
            with socket.socket(family) as one:
                one.bind(address)
                one.listen()
                return one.getsockname()
        ACTS = [
            lambda: listen(socket.AF_INET, ("127.0.0.1", 0)), lambda: listen(socket.AF_UNIX, "\\0left-$PORT"),
            lambda: listen(socket.AF_UNIX, "$FOLDER/listening"), lambda: socket.getaddrinfo("localhost", 80),
        ]
        ACTS[-1] = lambda: socket.create_server(("127.0.0.1", 0))
        """,
    ),
)

PROCESSES = (
    act(
        "forks",
        """
        def fork(how):
            process = how()
            if process == 0: os._exit(0)
            return process
        ACTS = [lambda: fork(os.fork), lambda: fork(os.forkpty), lambda: call("clone3", bytes(88), 88)]
        """,
    ),
    act(
        "starts programs",
        """
        def system():
            if os.system("true") == 0: return "ran"
            raise PermissionError(errno.EPERM, "system failed")
        def subprocess():
            import subprocess
            return subprocess.run(["/bin/true"]).returncode
        ACTS = [
            lambda: os.posix_spawn("/bin/true", ["true"], {}), lambda: os.execv("/bin/true", ["true"]),
            system, subprocess,
        ]
        """,
    ),
    act(
        "multiprocessing",
        """
        def start():
            import multiprocessing
            process = multiprocessing.get_context("fork").Process(target=int)
            process.start()
            process.join()
            return process.exitcode
        ACTS = [start]
        """,
    ),
    act(
        "signals others",
        """
        ACTS = [
            lambda: os.kill(os.getppid(), 0), lambda: os.kill($PID, 0), lambda: os.kill(0, 0), lambda: os.kill(-1, 0),
            lambda: os.killpg(os.getpgid(0), 0), lambda: os.kill(os.getpid(), 0), lambda: os.kill(1, 0),
            lambda: call("tgkill", os.getppid(), os.getppid(), 0),
            lambda: call("rt_sigqueueinfo", os.getppid(), 0, bytes(128)),
            lambda: signal.pthread_kill(__import__("threading").get_ident(), 0),
        ]
        """,
    ),
    act(
        "lets the kernel signal others",
        """
        import fcntl, struct
        ACTS = [
            lambda: fcntl.fcntl(3, 8, os.getppid()), lambda: fcntl.fcntl(3, 15, struct.pack("ii", 1, os.getppid())),
            lambda: fcntl.fcntl(3, 10, 9), lambda: fcntl.ioctl(3, 0x5452, struct.pack("i", 1)),
            lambda: fcntl.ioctl(3, 0x8901, struct.pack("i", os.getppid())), lambda: fcntl.fcntl(3, 1026, 1),
        ]
        """,
    ),
    act(
        "rules over other processes",
        """
        ACTS = [
            lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 0), lambda: os.sched_setaffinity(os.getppid(), {0}),
            lambda: call("prlimit64", os.getppid(), 7, 0, bytes(16)), lambda: call("process_madvise", 3, 0, 0, 0, 0),
            lambda: os.setpgid(os.getppid(), 0),
        ]
        """,
    ),
)

PRIVILEGES = (
    act(
        "raises its limits",
        """
        import resource
        def lift(kind):
            try:
                return resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2)
            except ValueError as refusal:  # what the module makes of EPERM
                raise PermissionError(errno.EPERM, str(refusal)) from None
        ACTS = [
            lambda: lift(resource.RLIMIT_AS), lambda: lift(resource.RLIMIT_CPU), lambda: lift(resource.RLIMIT_NOFILE),
            lambda: call("prlimit64", 0, 9, (ctypes.c_uint64 * 2)(1 << 60, 1 << 60), 0),
        ]
        """,
    ),
    act(
        "becomes somebody else",
        """
        ACTS = [
            lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([]), lambda: os.setresuid(0, 0, 0),
            lambda: os.setsid(), lambda: call("personality", 0x0400000),
            lambda: LIBC.capset(bytes(8), bytes(24)) and no(),
        ]
        def no(): raise OSError(ctypes.get_errno(), "capset was refused")
        """,
    ),
    act(
        "namespaces and mounts",
        """
        ACTS = [
            lambda: call("unshare", 0x10000000), lambda: call("unshare", 0), lambda: call("setns", 3, 0),
            lambda: call("mount", b"none", b"$FOLDER/nowhere", b"tmpfs", 0, 0), lambda: call("chroot", b"/"),
            lambda: call("pivot_root", b"$FOLDER/nowhere", b"$FOLDER/nowhere"), lambda: call("fsopen", b"tmpfs", 0),
            lambda: call("open_tree", -100, b"/", 1),
        ]
        """,
    ),
    act(
        "machine code of its own",
        """
        PAGE = 4096
        LIBC.mmap.restype = ctypes.c_void_p
        def mapped(rights):
            address = LIBC.mmap(None, ctypes.c_size_t(PAGE), rights, 0x22, -1, ctypes.c_size_t(0))
            if address == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), "mmap was refused")
            return address
        def mprotect(address, rights):
            if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), rights):
                raise OSError(ctypes.get_errno(), "mprotect was refused")
            return address
        ACTS = [
            lambda: mapped(7), lambda: mapped(5), lambda: mapped(4), lambda: mprotect(mapped(3), 5),
            lambda: mprotect(mapped(3), 7), lambda: call("pkey_mprotect", mapped(3), PAGE, 5, -1),
        ]
        """,
    ),
    Case(
        "C functions made at run time",
        REPORT + "TWICE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)\ndef attempt():\n"
        "    try: made = TWICE(lambda x: 2 * x)\n    except MemoryError: return ['denied: no memory to execute']\n"
        "    return [f'got {made(4)}']\n",
        DENIED,
        ends=frozenset({Status.PASSED, Status.MEMORY, Status.CRASHED, Status.ERROR}),
    ),
    act(
        "machine code over its own functions",
        """
        def overwrite():
            function = ctypes.cast(LIBC.getpid, ctypes.c_void_p).value
            LIBC.mprotect(ctypes.c_void_p(function & ~0xFFF), 8192, 7)
            ctypes.memset(function, 0xC3, 1)
            return "written"
        ACTS = [overwrite]
        """,
        Status.CRASHED,
    ),
    act(
        "calls of another architecture",
        """
        def strange(number):
            result = LIBC.syscall(ctypes.c_long(number), b"/etc/passwd", 0, 0)
            if result < 0: raise OSError(ctypes.get_errno(), "refused")
            return result
        ACTS = [lambda: strange(0x40000002), lambda: strange(0x40000000 + 257), lambda: strange(1023)]
        """,
        Status.CRASHED,
    ),
    act(
        "watches and rings of the kernel",
        """
        ACTS = [
            lambda: call("inotify_init1", 0), lambda: call("fanotify_init", 0, 0),
            lambda: call("io_uring_setup", 4, bytes(120)), lambda: call("io_setup", 0, 0),
        ]
        """,
    ),
    act(
        "changes its own filter",
        """
        ACTS = [
            lambda: call("seccomp", 0, 0, 0), lambda: call("seccomp", 1, 0, 0),
            lambda: LIBC.prctl(22, 2, 0, 0, 0) and no(), lambda: LIBC.prctl(1, 0, 0, 0, 0) and no(),
            lambda: LIBC.prctl(4, 1, 0, 0, 0) and no(), lambda: LIBC.prctl(0x59616D61, -1, 0, 0, 0) and no(),
        ]
        def no(): raise OSError(ctypes.get_errno(), "prctl was refused")
        """,
    ),
    act(
        "rules over the machine",
        """
        ACTS = [
            lambda: call("settimeofday", 0, 0), lambda: call("adjtimex", 0), lambda: call("swapon", 0, 0),
            lambda: call("init_module", 0, 0, 0), lambda: call("delete_module", 0, 0),
            lambda: call("quotactl", 0, 0, 0, 0), lambda: os.nice(-1),
            lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        ]
        """,
    ),
)

FORBIDDEN_CALLS = (*NETWORK, *PROCESSES, *PRIVILEGES)
