"""One worker's processes: the tester server and, forked from it before it has seen any test, the candidate server."""

from __future__ import annotations

import os
import signal
import sys

from . import process


def main() -> None:
    """Serves until the parent process hangs up."""
    level, memory_mb, for_tests, for_programs = sys.argv[1:]
    process.die_with_parent()
    tests, candidates = process.take_channels()
    child = os.fork()
    # Each imports its own part after the fork: what a server does not need would make its forks dearer.
    if child == 0:
        from .candidate_server import serve as serve_candidates

        process.die_with_parent()
        process.set_name("tamis-candidate")
        tests.close()
        serve_candidates(candidates, level, for_programs.split())
    else:
        from .tester_server import serve as serve_tests

        process.set_name("tamis-tester")
        candidates.close()
        signal.signal(signal.SIGCHLD, lambda *_: end_if_lost(child))
        serve_tests(tests, int(memory_mb), for_tests.split())
        os.waitpid(child, 0)  # it ends when its own line is cut, and first makes an end of what its programs left


def end_if_lost(child: int) -> None:
    """Ends this process if the candidate server has ended: inside bubblewrap nobody else would notice."""
    if os.waitpid(child, os.WNOHANG)[0]:
        os._exit(1)
