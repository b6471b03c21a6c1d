"""Each layer of confinement at work in children of a fresh interpreter: what it denies, and what it lets through."""

import ast
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tamis.execution.guest import confinement

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these layers are Linux's")

GUEST = Path(confinement.__file__).parent
# Turns layers on as the candidate server does, and runs each body in a forked child; what it leaves in `result`, the
# errno of its OSError, the name of another exception, or the signal that ended it, is its line of the answer.
DRIVER = """
import asyncio, concurrent.futures.thread, ctypes, json, math, mmap, os, resource, secrets, select, signal, socket
import sys, threading, time, uuid
sys.path.append(sys.argv[1])
from guest import confinement
sys.path.pop()
layers, bodies = json.loads(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)

X86 = os.uname().machine == "x86_64"

def check(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")
    return answer

def call(x86, arm, *arguments):
    return check(libc.syscall(x86 if X86 else arm, *arguments))

def run(body, writer):
    if "limits" in layers:
        confinement.set_limits(confinement.resource_limits(1, 512, 1, 16))
    if "seccomp" in layers:
        syscalls.install()
    scope = {**globals(), "result": None}
    try:
        exec(body, scope)
        told = repr(scope["result"])
    except OSError as error:
        told = f"errno {error.errno}"
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
    os.write(writer, told.encode())

def child(body):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run(body, writer)
        finally:
            os._exit(0)
    os.close(writer)
    told = os.read(reader, 4096).decode()
    os.close(reader)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"signal {-code}" if code < 0 else told

syscalls = confinement.SyscallFilter(confinement.filter_program(os.uname().machine))
if "limits" in layers:
    confinement.share_one_arena()
    limits = confinement.resource_limits(1, 512, 1, 16)
if "user" in layers and os.getuid() == 0:
    os.setresuid(54321, 54321, 54321)
if "privileges" in layers:
    confinement.drop_privileges()
abi = confinement.restrict_with_landlock() if "landlock" in layers else 0
print(json.dumps({"abi": abi, **{name: child(body) for name, body in bodies.items()}}))
"""
ALL = ("limits", "privileges", "landlock", "seccomp")
EPERM = "errno 1"

FORBIDDEN = {
    "read a file": "open('/etc/passwd')",
    "read an interpreter's file": "open(os.__file__)",
    "write a file": "os.open('/tmp/tamis-forbidden', os.O_WRONLY | os.O_CREAT)",
    "see that a file exists": "os.stat('/etc/passwd')",
    "see that a file exists, by an empty-path call": "call(262, 79, -100, "
    "b'/etc/passwd', ctypes.create_string_buffer(256), 0x1000)",
    "list a folder": "os.listdir('/')",
    "list a folder that is open": "os.listdir(3)",
    "change folder": "os.chdir('/')",
    "read the own command line": "open('/proc/self/cmdline')",
    "read the parent's memory": "os.open(f'/proc/{os.getppid()}/mem', os.O_RDONLY)",
    "read another process's memory": "call(310, 270, os.getppid(), 0, 0, 0, 0, 0)",
    "trace": "call(101, 117, 16, os.getppid(), 0, 0)",
    "reach the internet": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "reach a local socket": "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
    "send a datagram to an address": "a, b = socket.socketpair(); a.sendto(b'x', '/dev/log')",
    "pass a descriptor": "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0])",
    "fork": "os.fork() or os._exit(0)",
    "fork by the C library": "check(libc.fork()) or os._exit(0)",
    "start a program by the C library": "os.posix_spawn('/bin/true', ['true'], {})",
    "execute": "os.execv('/bin/true', ['true'])",
    "signal the parent": "os.kill(os.getppid(), 0)",
    "signal everybody": "os.kill(-1, 0)",
    "signal by a pidfd": "os.pidfd_open(os.getppid())",
    "signal by an owner of a descriptor": "import fcntl; a, b = socket.socketpair(); fcntl.fcntl(a, 8, os.getppid())",
    "signal by asynchronous input": "import fcntl; a, b = socket.socketpair(); fcntl.ioctl(a, 0x5452, b'1234')",
    "execute new code": "mmap.mmap(-1, 4096, prot=7)",
    "share memory": "call(29, 194, 1234, 4096, 0o1600)",
    "make a file in memory": "os.memfd_create('x')",
    "make a ring of requests": "call(425, 425, 8, ctypes.create_string_buffer(256))",
    "make a namespace": "call(272, 97, 0x10000000)",
    "raise a limit": "call(302, 261, 0, 7, ctypes.create_string_buffer(16), None)",
    "look at another's limits": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "leave the session": "os.setsid()",
    "change the user": "os.setuid(os.getuid())",
    "run on another processor": "os.sched_setaffinity(0, os.sched_getaffinity(0))",
    "be nicer": "os.setpriority(os.PRIO_PROCESS, 0, 5)",
}

LEGITIMATE = {
    "print": "print('x' * 100_000); result = True",
    "threads, 20 at a time": "barrier = threading.Barrier(21)\n"
    "threads = [threading.Thread(target=barrier.wait) for _ in range(20)]\n"
    "for thread in threads: thread.start()\nbarrier.wait()\nfor thread in threads: thread.join()\nresult = True",
    "a pool": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor() as pool: result = sum(pool.map(abs, range(-9, 1))) == 45",
    "asyncio": "async def main():\n    await asyncio.sleep(0.001)\n    return await asyncio.to_thread(math.gcd, 4, 6)\n"
    "result = asyncio.run(main()) == 2",
    "alarm": "heard = []\nsignal.signal(signal.SIGALRM, lambda *_: heard.append(1))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\nsignal.pause()\nresult = signal.alarm(0) == 0 and heard == [1]",
    "pipes": "reader, writer = os.pipe()\nos.set_blocking(writer, False)\nos.write(writer, b'x')\n"
    "result = os.fdopen(os.dup(reader), 'rb', buffering=0).read(1) == b'x'",
    "a pair": "a, b = socket.socketpair()\nwith a, b:\n    a.sendall(b'x')\n"
    "    result = select.select([b], [], [], 1)[0] == [b] and b.recv(1) == b'x'",
    "chance": "result = len({uuid.uuid4(), uuid.uuid4(), secrets.token_hex(), os.urandom(9)}) == 4",
    "memory": "m = mmap.mmap(-1, 1 << 20)\nm[0] = 1\nblock = bytearray(64 << 20)\ndel block\nresult = m[0] == 1",
    "recursion": "sys.setrecursionlimit(50_000)\ndef f(n): return n and 1 + f(n - 1)\nresult = f(20_000) == 20_000",
    "a big stack": "def run():\n    global result\n    result = True\nthreading.stack_size(64 << 20)\n"
    "thread = threading.Thread(target=run)\nthread.start()\nthread.join()",
    "clocks": "start = time.perf_counter(), time.process_time(), time.thread_time()\ntime.sleep(0.001)\n"
    "result = time.perf_counter() > start[0] and time.localtime().tm_year > 2000",
    "self": "result = os.cpu_count() >= 1 and os.getpid() > 0 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 16",
    "standard input": "try: input()\nexcept EOFError: result = sys.stdin.read() == ''",
}

KILL_CHILD = """
pid = os.fork()
if pid == 0:
    time.sleep(60)
handle = os.pidfd_open(pid)
time.clock_gettime((~pid) << 3 | 2)
signal.pidfd_send_signal(handle, signal.SIGKILL)
result = os.waitpid(pid, 0)[1] == signal.SIGKILL
"""


def confined(layers: tuple[str, ...], bodies: dict[str, str], **limits: int) -> dict[str, str]:
    """What became of each body under these layers; ``abi`` is Landlock's."""
    command = [sys.executable, "-P", "-s", "-S", "-B", "-c", DRIVER, str(GUEST.parent), json.dumps([layers, bodies])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


def landlock() -> int:
    return int(confined(("privileges", "landlock"), {})["abi"])


def test_seccomp_forbids() -> None:
    found = confined(("privileges", "seccomp"), FORBIDDEN)
    assert {name: found[name] for name in FORBIDDEN if found[name] != EPERM} == {}


def test_without_seccomp_nothing_of_it_is_forbidden() -> None:
    # Left out: what would leave something behind, stop the parent, or be forbidden by some containers anyway.
    others = {"write a file", "share memory", "trace", "make a namespace", "make a ring of requests"}
    bodies = {name: body for name, body in FORBIDDEN.items() if name not in others}
    found = confined((), bodies)
    assert [name for name in bodies if found[name] == EPERM] == []


def test_all_layers_together_let_ordinary_programs_run() -> None:
    found = confined(ALL, LEGITIMATE)
    assert {name: found[name] for name in LEGITIMATE if found[name] != "True"} == {}


def test_calls_by_another_numbering_kill() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("only x86_64 has a second numbering that needs no new code")
    found = confined(("privileges", "seccomp"), {"x32 getpid": "libc.syscall(0x40000000 | 39)"})
    assert found["x32 getpid"] == "signal 31"  # SIGSYS


def test_landlock_denies_files_tcp_and_signals() -> None:
    if not (abi := landlock()):
        pytest.skip("this kernel has no Landlock")
    bodies = {
        "read": "open('/etc/passwd')",
        "list": "os.listdir('/')",
        "make": "os.mkdir('/tmp/tamis-forbidden')",
        "other files": "os.open('/proc/self/mem', os.O_RDONLY)",
    }
    if abi >= confinement.NET_RIGHTS_ABI:
        bodies["bind"] = "socket.socket().bind(('127.0.0.1', 0))"
        bodies["connect"] = "socket.socket().connect(('127.0.0.1', 9))"
    errors = dict.fromkeys(bodies, "errno 13")
    if abi >= confinement.SCOPES_ABI:
        bodies["signal"] = f"os.kill({os.getpid()}, 0)"  # ours; a session may belong to another pid namespace, as 0
        errors["signal"] = EPERM
    found = confined(("privileges", "landlock"), {**bodies, "kill a child": KILL_CHILD})
    assert {name: found[name] for name in bodies} == errors
    assert found["kill a child"] == "True"


@pytest.mark.parametrize("user", [(), ("user",)], ids=["as we are", "as an ordinary user"])
def test_privileges_are_gone_and_children_are_still_ours(user: tuple[str, ...]) -> None:
    bodies = {
        "status": "result = {line.split()[0]: line.split()[1] for line in open('/proc/self/status') if ':' in line "
        "and line.startswith(('Cap', 'NoNew'))}",
        "kill a child": KILL_CHILD,
        "bind a low port": "socket.socket().bind(('127.0.0.1', 1))",
    }
    found = confined((*user, "privileges"), bodies)
    status = ast.literal_eval(found["status"])
    assert status.pop("NoNewPrivs:") == "1"
    if os.getuid() == 0:  # an ordinary user's bounding set cannot be emptied, and nothing can be gained from it
        assert int(status.pop("CapBnd:"), 16) == 0 or user
    assert {int(value, 16) for name, value in status.items() if name != "CapBnd:"} == {0}
    assert found["kill a child"] == "True"


def test_limits_end_what_goes_too_far() -> None:
    bodies = {
        "cpu": "while True: pass",
        "memory": "bytearray(600 << 20)",
        "open files": "while True: os.dup(0)",
        "a file": "import tempfile\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with tempfile.TemporaryFile() as file: file.write(bytes(2 << 20))",
        "core and stack": "result = [resource.getrlimit(getattr(resource, f'RLIMIT_{k}')) for k in ('CORE', 'STACK')]",
    }
    found = confined(("limits",), bodies)
    del found["abi"]
    assert found == {
        "cpu": "signal 24",  # SIGXCPU
        "memory": "MemoryError: ",
        "open files": "errno 24",  # EMFILE
        "a file": "errno 27",  # EFBIG
        "core and stack": f"[(0, 0), {(confinement.STACK_BYTES,) * 2}]",
    }


def test_limits_are_lowered_to_the_machines_own() -> None:
    body = (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\nresource.setrlimit(resource.RLIMIT_CPU, (2, 2))\n"
        "confinement.set_limits(confinement.resource_limits(30, 1024, 1, 32))\n"
        "result = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CPU)"
    )
    assert confined((), {"clamped": body})["clamped"] == "((12, 12), (2, 2))"


def test_failures_name_the_layer() -> None:
    catch = "try: {}\nexcept OSError as error: result = str(error)"
    bodies = {
        "filter": catch.format("confinement.SyscallFilter(b'\\xff' * 8).install()"),
        "rehearsal": catch.format("confinement.SyscallFilter(b'\\xff' * 8).rehearse()"),
        "limits": catch.format("confinement.set_limits(confinement.resource_limits(1 << 70, 1, 1, 1))"),
    }
    found = confined(("privileges",), bodies)
    assert "seccomp: the kernel refused the filter: Invalid argument" in found["filter"]
    assert "seccomp: a child could not install the filter: Invalid argument" in found["rehearsal"]
    assert "resource limits: limit 0 = (1180591620717411303424" in found["limits"]


def test_the_filter_needs_no_new_privileges_first() -> None:
    body = "try: syscalls.install()\nexcept OSError as error: result = error.errno, str(error)"
    assert "13, '[Errno 13] seccomp" in confined(("user",), {"filter": body})["filter"]


def test_a_rehearsal_leaves_no_trace() -> None:
    body = "syscalls.rehearse()\nresult = open(os.devnull).read() == ''\ntry: os.wait()\nexcept ChildProcessError: pass"
    assert confined(("privileges",), {"rehearsal": body})["rehearsal"] == "True"
