"""Acts on files and secrets that no program may do where the system is shut out."""

from __future__ import annotations

from .acts import act

FILES = (
    act(
        "reads files of the system",
        """
        ACTS = [
            lambda: open("/etc/passwd").read(),
            lambda: os.open("/etc/hostname", os.O_RDONLY),
            lambda: LIBC_open(b"/etc/passwd"),
            lambda: call("openat2", -100, b"/etc/passwd", bytes(24), 24),
        ]
        def LIBC_open(path):
            descriptor = LIBC.open(path, 0)
            if descriptor < 0: raise OSError(ctypes.get_errno(), "open was refused")
            return descriptor
        """,
    ),
    act("reads a secret in a file", "ACTS = [lambda: open('$SECRET_FILE').read()]\n"),
    act(
        "reads the harness",
        """
        ACTS = [
            lambda: open("$HARNESS").read(),
            lambda: open(sys._getframe(3).f_code.co_filename).read(),
            lambda: open(sys.executable, "rb").read(4),
        ]
        """,
    ),
    act("reads home", "ACTS = [lambda: os.listdir('/root'), lambda: os.listdir('/home'), lambda: os.listdir('.')]\n"),
    act(
        "lists and asks for files",
        """
        ACTS = [
            lambda: os.listdir("/"), lambda: os.scandir("/tmp"), lambda: os.stat("/etc/passwd"),
            lambda: os.readlink("/proc/self/exe"), lambda: os.statvfs("/"),
            lambda: call("statx", -100, b"/etc/passwd", 0, 2047, bytes(256)),
            lambda: call("getdents64", 3, bytes(1024), 1024),
        ]
        """,
    ),
    act(
        "writes files",
        """
        PLACES = ["left-behind", "/tmp/left-behind-$PORT", "/dev/shm/left-behind-$PORT", "$FOLDER/left-behind"]
        ACTS = [lambda place=place: open(place, "w").write("x") for place in PLACES]
        """,
    ),
    act(
        "changes the file system",
        """
        ACTS = [
            lambda: os.mkdir("$FOLDER/made"), lambda: os.unlink("$SECRET_FILE"),
            lambda: os.rename("$SECRET_FILE", "$FOLDER/moved"), lambda: os.chmod("$SECRET_FILE", 0o777),
            lambda: os.symlink("/etc", "$FOLDER/link"), lambda: os.truncate("$SECRET_FILE", 0),
            lambda: os.mkfifo("$FOLDER/fifo"), lambda: os.link("$SECRET_FILE", "$FOLDER/hard"),
            lambda: os.utime("$SECRET_FILE"), lambda: os.chown("$SECRET_FILE", 0, 0),
            lambda: call("symlinkat", b"/etc", -100, b"$FOLDER/link2"),
        ]
        """,
    ),
    act("goes elsewhere", "ACTS = [lambda: os.chdir('/'), lambda: os.chroot('/'), lambda: os.fchdir(3)]\n"),
    act(
        "opens by handle",
        """
        ACTS = [
            lambda: call("name_to_handle_at", -100, b"/", bytes(256), bytes(8), 0),
            lambda: call("open_by_handle_at", 3, bytes(256), 0),
        ]
        """,
    ),
    act(
        "memory as a file",
        """
        ACTS = [
            lambda: os.memfd_create("code"), lambda: call("memfd_create", b"code", 0),
            lambda: call("execveat", 3, b"", 0, 0, 0x1000),
        ]
        """,
    ),
    act(
        "shares memory with others",
        """
        ACTS = [
            lambda: call("shmget", 0x7A31, 4096, 0o600), lambda: call("msgget", 0x7A31, 0o600),
            lambda: call("semget", 0x7A31, 1, 0o600), lambda: call("mq_open", b"left", 2, 0o600, 0),
            lambda: __import__("multiprocessing.shared_memory").shared_memory.SharedMemory("left-behind", True, 64),
        ]
        """,
    ),
)

SECRETS = (
    act(
        "environment of the parent",
        """
        def environment(process): return open(f"/proc/{process}/environ").read()
        ACTS = [lambda: environment(os.getppid()), lambda: environment($PID), lambda: environment("self")]
        """,
    ),
    act(
        "its own environment",
        """
        ENVIRON = ctypes.POINTER(ctypes.c_char_p).in_dll(LIBC, "environ")
        def found():
            texts = [f"{k}={v}" for k, v in os.environ.items()]
            if ENVIRON:
                at = 0
                while ENVIRON[at]: texts.append(ENVIRON[at].decode()); at += 1
            texts = [text for text in texts if "$CANARY" in text or "HOME" in text or "KEY" in text]
            if not texts: raise PermissionError(errno.EPERM, "nothing to see")
            return texts
        ACTS = [found]
        """,
    ),
    act(
        "memory of the parent",
        """
        def memory(process): return open(f"/proc/{process}/mem", "rb").read(1), open(f"/proc/{process}/maps").read()
        def vectors(process):
            buffer = ctypes.create_string_buffer(64)
            vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 64)
            return call("process_vm_readv", process, vector, 1, vector, 1, 0)
        ACTS = [
            lambda: memory(os.getppid()), lambda: memory($PID), lambda: memory("self"),
            lambda: vectors(os.getppid()), lambda: vectors($PID),
            lambda: call("process_vm_writev", os.getppid(), 0, 0, 0, 0, 0),
        ]
        """,
    ),
    act(
        "traces other processes",
        """
        ACTS = [
            lambda: call("ptrace", 0x4206, os.getppid(), 0, 0), lambda: call("ptrace", 0x4206, $PID, 0, 0),
            lambda: call("ptrace", 0, 0, 0, 0), lambda: call("kcmp", os.getppid(), os.getppid(), 0, 0, 0),
            lambda: call("perf_event_open", bytes(128), 0, -1, -1, 0), lambda: call("userfaultfd", 0),
            lambda: call("move_pages", os.getppid(), 0, 0, 0, 0, 0),
        ]
        """,
    ),
    act(
        "takes files from other processes",
        """
        ACTS = [
            lambda: os.pidfd_open(os.getppid()), lambda: call("pidfd_open", $PID, 0),
            lambda: call("pidfd_getfd", 3, 0, 0),
            lambda: os.open(f"/proc/{os.getppid()}/fd/0", os.O_RDWR), lambda: os.listdir("/proc"),
        ]
        """,
    ),
    act(
        "keys and logs of the kernel",
        """
        ACTS = [
            lambda: call("keyctl", 0, -3, 0), lambda: call("add_key", b"user", b"left", b"x", 1, -2),
            lambda: call("syslog", 10, 0, 0), lambda: call("bpf", 0, bytes(128), 128),
        ]
        """,
    ),
)

FORBIDDEN_FILES = (*FILES, *SECRETS)
