"""Starts two ranks, hands them scenarios (functions that their test modules define), and brings the results back.

A process that imports torch and Lightning costs 6 CPU seconds; here one does, a fork server, and both ranks are forks
of it. A scenario runs in both at once, as Lightning's own launcher would run a script: what is different on the ranks,
its trainer sees in the environment. ``Trainer(devices=2, strategy="ddp")`` joins the group that is there.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, get_start_method, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
PRELOAD = ["torch", "lightning.pytorch", "tamis.cli", "transformers", "timm"]
PATIENCE = 180.0


class Ranks:
    """The two processes. They start with the first scenario, and anew after one that left them in a bad state."""

    def __init__(self) -> None:
        self._running: list[tuple[Any, Connection]] = []

    def __call__(self, scenario: Callable[..., Any], *arguments: object) -> list[Any]:
        """What a function of a test module returns on each rank: anything that ``torch.save`` takes.

        Raises:
            RuntimeError: with the ranks' own stacks, if one of them fails or both take too long.
        """
        if not self._running:
            self._start()
        order = pickle.dumps((scenario, arguments))
        for _, connection in self._running:
            connection.send_bytes(order)
        answers = self._answers()
        failures = [f"rank {rank}: {text}" for rank, text in enumerate(answers) if isinstance(text, str)]
        if failures:
            self.close()  # the other rank may wait for one that has left
            raise RuntimeError("\n".join(failures))
        return [torch.load(io.BytesIO(data), weights_only=False) for data in answers if isinstance(data, bytes)]

    def close(self) -> None:
        """End the processes."""
        for process, connection in self._running:
            connection.close()
            process.join(0.2)
            process.kill()
            process.join()
        self._running = []

    def _start(self) -> None:
        if str(ROOT) not in sys.path:
            sys.path.append(str(ROOT))  # the ranks find the test modules by name
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        port = _free_port()
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, port, get_start_method(), theirs)
            )  # a daemon may have no loader workers
            process.start()
            theirs.close()
            self._running.append((process, ours))

    def _answers(self) -> list[bytes | str]:
        """Bytes of a result, or the words of a failure; after the first failure the other rank has little time left."""
        answers: list[bytes | str] = ["no answer in time", "no answer in time"]
        waiting, end = {0, 1}, time.monotonic() + PATIENCE
        while waiting and time.monotonic() < end:
            for rank in list(waiting):
                answer = _answer(self._running[rank][1])
                if answer is not None:
                    answers[rank] = answer
                    waiting.remove(rank)
                    end = min(end, time.monotonic() + 5) if isinstance(answer, str) else end
        return answers


def _answer(connection: Connection) -> bytes | str | None:
    if not connection.poll(0.01):
        return None
    try:
        ok, answer = connection.recv()
    except (EOFError, OSError):
        return "the process has died"
    return answer if ok else str(answer)


def _serve(rank: int, port: int, start_method: str, connection: Connection) -> None:
    """A rank: run what comes until nothing comes any more."""
    from lightning.pytorch.utilities import rank_zero_only

    set_start_method(start_method, force=True)  # of loader workers: as in a process that nobody made a fork of
    torch.set_num_threads(1)
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    own |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ.update(own)
    environment, folder = dict(os.environ), Path.cwd()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    with suppress(EOFError):
        while True:
            connection.send(_run(connection.recv_bytes()))
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _run(order: bytes) -> tuple[bool, bytes | str]:
    torch.manual_seed(0)
    try:
        scenario, arguments = pickle.loads(order)
        data = io.BytesIO()
        torch.save(scenario(*arguments), data)
    except BaseException:
        return False, traceback.format_exc()
    return True, data.getvalue()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
