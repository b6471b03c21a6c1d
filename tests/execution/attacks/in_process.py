"""The executor that the suite is measured against: program and test in one namespace, no exception means passed.

    python in_process.py < cases.json

The input is a JSON list of [prelude, source, test]; the output a JSON list that says of each whether it "passed". Each
runs in a fork with a time limit, but there is no protection of any kind: run this on programs of the suite only.
"""

from __future__ import annotations

import json
import os
import signal
import sys

PATIENCE_S = 5


def judge(prelude: str, source: str, test: str) -> None:
    """Runs all three, one after the other, as plain executors do; what they raise ends the process."""
    namespace: dict[str, object] = {"__name__": "candidate"}
    for text in (prelude, source, test):
        exec(compile(text, "<string>", "exec"), namespace)


def passes(texts: list[str]) -> bool:
    """Judges in a fork; its exit code is the verdict."""
    process = os.fork()
    if process == 0:
        signal.alarm(PATIENCE_S)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        judge(*texts)
        sys.exit(0)  # in an orderly way, so that exit hooks run as they would
    return os.waitpid(process, 0)[1] == 0


def main() -> None:
    """Reads the cases, writes the verdicts."""
    verdicts = []
    for texts in json.load(sys.stdin):
        owner = os.getpid()
        try:
            verdicts.append(passes(texts))
        except BaseException:
            if os.getpid() != owner:  # the fork, on its way out as an uncaught exception would take it
                raise
            raise SystemExit("the executor itself failed") from None
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main()
