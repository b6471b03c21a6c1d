"""What programs could leave behind or get out, and how to see it."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

MARK = "left-behind"
"""In the name of every file that the suite tries to leave."""


def descendants(root: int | None = None) -> set[int]:
    """The processes that descend from this one (or from ``root``), zombies not counted."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(name)] = int(parent)
    found, size = {root or os.getpid()}, 0
    while len(found) > size:
        size = len(found)
        found |= {process for process, parent in parents.items() if parent in found}
    return found - {root or os.getpid()}


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def files(folder: Path) -> set[str]:
    """What lies in the folder, and what of the suite lies in the machine's shared places."""
    shared = [Path(place) for place in ("/tmp", "/dev/shm", tempfile.gettempdir())]
    marked = {str(path) for place in shared if place.is_dir() for path in place.glob(f"*{MARK}*")}
    return {str(path) for path in folder.rglob("*")} | marked


@contextlib.contextmanager
def nothing_left(folder: Path, patience_s: float = 3.0) -> Iterator[None]:
    """Asserts that the block leaves no process, no open file and no file on disk.

    Args:
        folder: The working folder of the block.
        patience_s: How long killed processes may take to go.
    """
    before = descendants(), descriptors(), files(folder)
    yield
    end = time.monotonic() + patience_s
    while descendants() - before[0] and time.monotonic() < end:
        time.sleep(0.02)
    processes = {process: Path(f"/proc/{process}/cmdline") for process in descendants() - before[0]}
    assert not processes, f"processes left: {processes}"
    assert descriptors() <= before[1], f"{descriptors()} open files, {before[1]} before"
    assert files(folder) == before[2]


class Scene:
    """Doors for forbidden acts to knock at: sockets that listen, a secret, and the facts that programs need for it."""

    def __init__(self, folder: Path, canary: str) -> None:
        self.canary = canary
        self.secret = folder / "secret"
        self.secret.write_text(canary)
        self.listening = {
            "PORT": self._listen(socket.AF_INET, ("127.0.0.1", 0)),
            "UNIX_PATH": self._listen(socket.AF_UNIX, str(folder / "socket")),
            "ABSTRACT": self._listen(socket.AF_UNIX, f"\0{MARK}-{os.getpid()}-{id(self)}"),
        }
        self.hearing = {
            "UDP_PORT": self._hear(socket.AF_INET, ("127.0.0.1", 0)),
            "ABSTRACT_DATAGRAM": self._hear(socket.AF_UNIX, f"\0{MARK}-{os.getpid()}-{id(self)}-datagram"),
        }
        self.folder = folder

    @staticmethod
    def _listen(family: int, address: object) -> socket.socket:
        one = socket.socket(family, socket.SOCK_STREAM)
        one.bind(address)  # type: ignore[arg-type]
        one.listen()
        one.setblocking(False)
        return one

    @staticmethod
    def _hear(family: int, address: object) -> socket.socket:
        one = socket.socket(family, socket.SOCK_DGRAM)
        one.bind(address)  # type: ignore[arg-type]
        one.setblocking(False)
        return one

    def facts(self, harness: str) -> Mapping[str, object]:
        """What the programs' ``$NAMES`` stand for."""
        names = {name: one.getsockname() for name, one in {**self.listening, **self.hearing}.items()}
        places = {name: where[1] if isinstance(where, tuple) else where for name, where in names.items()}
        places = {name: where[1:].decode() if isinstance(where, bytes) else where for name, where in places.items()}
        paths = {"FOLDER": self.folder, "SECRET_FILE": self.secret, "HARNESS": harness}
        return {**places, **paths, "PID": os.getpid(), "CANARY": self.canary}

    def visits(self) -> list[str]:
        """The doors that somebody came to."""
        came = []
        for name, one in {**self.listening, **self.hearing}.items():
            with contextlib.suppress(BlockingIOError):
                one.accept()[0].close() if name in self.listening else one.recv(100)
                came.append(name)
        return came

    def close(self) -> None:
        """Closes the doors."""
        for one in (*self.listening.values(), *self.hearing.values()):
            one.close()
        (self.folder / "socket").unlink()
        self.secret.unlink()
