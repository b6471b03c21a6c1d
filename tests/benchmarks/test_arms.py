"""The table of benchmarks/arms.py: its arithmetic, by hand, and a tiny run of it against the files that it leaves."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
HOME = "runs/quickstart"
SETTINGS = {"samples": 2, "test_tasks": 4, "flag": [], "start": None}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports the scripts as they import each other."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def _evaluation(run_dir: Path, passed: dict[str, list[bool]], internal: str = "") -> None:
    """What ``CompletionTable`` writes; the samples of the task ``internal`` have no verdict."""
    run_dir.mkdir(parents=True)
    judged = [row for task, row in passed.items() if task != internal]
    value = sum(sum(row) / len(row) for row in judged) / len(judged)
    (run_dir / "results.json").write_text(json.dumps({"metrics": {"pass@1": {"value": value}}}))
    lines = [
        {"task_id": task, "status": "internal" if task == internal else "passed" if one else "failed", "passed": one}
        for task, row in passed.items()
        for one in row
    ]
    (run_dir / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _training(folder: Path, name: str, cpu_s: float, reward: float, kl: float, strategy: str | None) -> None:
    run_dir = folder / HOME / name
    run_dir.mkdir(parents=True)
    (folder / "stages" / f"{name}.json").write_text(json.dumps({"cpu_s": cpu_s, "wall_s": 99.0, "commit": "abc"}))
    with (run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["rollout/reward_mean", "rollout/kl"], [-9.0, -9.0], [reward, kl]])
    (run_dir / "timing.csv").write_text("step,timing/iteration_s\n1,1.5\n2,2.5\n")
    config = {
        "model": {"init_args": {"num_samples": 5}},
        "data": {"init_args": {"batch_size": 64}},
        "update": {"init_args": {"minibatch_size": 64, "epochs": 1}},
        "filter": strategy and {"init_args": {"strategy": strategy, "keep": 2}},
    }
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))


def _made_up(folder: Path) -> None:
    """Two seeds of two arms on four tasks; the greedy and the sampled rates of `_numbers`."""
    home = folder / HOME
    (folder / "stages" / "start_up.json").write_text(json.dumps({"cpu_s": 8.0, "wall_s": 9.0, "commit": "abc"}))
    yes, no = [True, True], [False, False]
    _evaluation(home / "sft_greedy", {"a": [False], "b": [False], "c": [False], "d": [True]})
    for seed, row in enumerate((yes, no)):
        _evaluation(home / f"sft_sampled_seed_{seed}", {"a": row, "b": no, "c": no, "d": no})
    for seed in (0, 1):
        _training(folder, f"ppo_m_seed_{seed}", 40.0, 0.5, 1.0, None)
        _training(
            folder, f"best_worst_seed_{seed}", (20.0, 30.0)[seed], (0.1, 0.3)[seed], (1.0, 3.0)[seed], "best_worst"
        )
        for kind in ("greedy", "sampled"):
            _evaluation(home / f"ppo_m_seed_{seed}_{kind}", {"a": yes, "b": yes, "c": no, "d": no})
    greedy = [
        {"a": [True], "b": [True], "c": [False], "d": [False]},
        {"a": [True], "b": [True], "c": [True], "d": [True]},
    ]
    for seed, passed in enumerate(greedy):
        _evaluation(home / f"best_worst_seed_{seed}_greedy", passed)
    for seed, row in enumerate((yes, [True, False])):
        _evaluation(home / f"best_worst_seed_{seed}_sampled", {"a": row, "b": row, "c": no, "d": no})


def _row(text: str, name: str) -> list[str]:
    """The cells of a line of the Markdown table."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_numbers_are_those_worked_out_by_hand(scripts: Any, tmp_path: Path) -> None:
    """Best_worst, greedy: 2/4 and 4/4, mean .75, error .25; the SFT model has 1/4: gains .25, .75, mean .5, error .25.

    The tasks' mean gains are 1, 1, .5 and -.5: mean .5, sample variance 1.5 / 3, standard error sqrt(.5 / 4) = .354.
    Sampled: 1/2 and 1/4, mean .375, error .125. The SFT model: 1/4 and 0, mean .125, error .125. Gains .25 and .25:
    error 0, because both seeds are paired. The tasks' mean gains: a (0 + .5) / 2 = .25, b (1 + .5) / 2 = .75, c and d
    0: mean .25, sample variance (0 + .25 + .0625 + .0625) / 3 = .125, standard error sqrt(.125 / 4) = .177.
    CPU seconds 20 and 30: 25 +- 5. Less the start-up's 8 they are 12 and 22, beside PPO-M's 32 .375 and .6875 times as
    many: .53125 +- .15625.
    """
    folder = scripts("stages").Folder(tmp_path, SETTINGS)
    _made_up(tmp_path)
    console = Console(width=200)
    with console.capture() as capture:
        scripts("arms_report").report(folder, HOME, ["ppo_m", "best_worst"], 2, console)
    table = (tmp_path / "arms.md").read_text()
    expected = ["best_worst", "128 / 2", "0.750 ± 0.250", "+0.500 ± 0.250 (0.354)", "0.375 ± 0.125"]
    expected += ["+0.250 ± 0.000 (0.177)", "25.0 ± 5.0", "0.20 ± 0.10", "2.00 ± 1.00"]
    assert _row(table, "best_worst") == expected
    assert _row(table, "SFT") == ["SFT", "", "0.250", "", "0.125 ± 0.125", "", "", "", ""]
    assert _row(table, "ppo_m")[1:3] == ["320 / 5", "0.500 ± 0.000"]
    # Beside PPO-M: greedy 0 and .5; tasks 0, 0, .5, .5: sqrt((4 * .0625 / 3) / 4) = .144.
    assert "best_worst - ppo_m: greedy +0.250 ± 0.250 (0.144)" in table
    assert "CPU seconds less start-up 0.53 ± 0.16 times as many" in table
    assert "8.0 of them are its start-up" in table
    printed = capture.get()
    assert all(cell in printed for cell in expected)
    assert "4 test tasks" in printed
    assert "commit abc" in printed
    numbers = json.loads((tmp_path / "arms.json").read_text())
    assert numbers["arms"]["best_worst"]["greedy"] == [0.5, 1.0]
    assert numbers["arms"]["best_worst"]["training"][1]["loop_s"] == 4.0


def test_one_seed_has_no_error_and_tasks_without_verdict_are_out(scripts: Any, tmp_path: Path) -> None:
    report = scripts("arms_report")
    assert report.over_seeds([0.5]).text() == "0.500"
    _evaluation(tmp_path / "run", {"a": [True, False], "b": [False, False], "c": [True, True]}, internal="b")
    rates = report.read_rates(tmp_path / "run")
    assert rates.tasks == {"a": 0.5, "c": 1.0}
    # b is in one of the two only: the other tasks gain -.5 and 0.
    other = report.Rates(0.5, {"a": 0.0, "b": 1.0, "c": 1.0})
    assert report.difference([other], [rates]).task_error == pytest.approx(0.25)


def test_the_steps_are_those_of_the_config(scripts: Any) -> None:
    """6 tasks, 3 samples each: 18 rows in minibatches of 9, twice over. With 1 kept of each: 6 rows, in halves."""
    config = {
        "model": {"init_args": {"num_samples": 3}},
        "data": {"init_args": {"batch_size": 6}},
        "update": {"init_args": {"minibatch_size": 9, "epochs": 2}},
    }
    sizes = scripts("arms_report").sizes
    assert sizes(config) == (18, 4)
    config["update"]["init_args"] = {"minibatch_size": 3, "epochs": 1}
    config["filter"] = {"init_args": {"keep": 1}}
    assert sizes(config) == (6, 2)


def test_a_stage_runs_once_and_costs_what_it_computes(scripts: Any, tmp_path: Path) -> None:
    stages = scripts("stages")
    folder = stages.Folder(tmp_path, {})
    spin = stages.Stage("spin", ("timeit", "-n1", "-r1", "sum(range(15_000_000))"), ())
    sleep = stages.Stage("sleep", ("timeit", "-n1", "-r1", "-s", "import time", "time.sleep(0.6)"), ())
    told: list[tuple[str, bool]] = []
    folder.run_all([[sleep], [spin]], 2, lambda name, ended: told.append((name, ended)))
    costs = {stage.name: folder.record(stage.name) for stage in (spin, sleep)}
    assert costs["sleep"]["wall_s"] > 0.6
    assert costs["spin"]["cpu_s"] > 2 * costs["sleep"]["cpu_s"] > 0
    assert sorted(told) == [("sleep", False), ("sleep", True), ("spin", False), ("spin", True)]
    assert [ended for _, ended in told] == [False, False, True, True]  # both at a time
    folder.run(spin)
    assert folder.record("spin") == costs["spin"]


def test_a_broken_try_is_cleared_and_a_failure_ends_the_rest(scripts: Any, tmp_path: Path) -> None:
    stages = scripts("stages")
    folder = stages.Folder(tmp_path, {})
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "half").touch()
    bad, never = stages.Stage("bad", ("timeit", "1 / 0"), ("made",)), stages.Stage("never", ("timeit", "1"), ())
    with pytest.raises(RuntimeError, match="(?s)timeit 1 / 0 failed.*ZeroDivisionError"):
        folder.run_all([[bad], [never]], 1, lambda name, ended: None)
    assert not (tmp_path / "made").exists()
    assert folder.record("bad") is None
    assert folder.record("never") is None


def test_a_key_press_starts_nothing_more(scripts: Any, tmp_path: Path) -> None:
    stages = scripts("stages")
    folder = stages.Folder(tmp_path, {})
    first = stages.Stage("first", ("timeit", "-n1", "-r1", "-s", "import time", "time.sleep(0.6)"), ())
    never = stages.Stage("never", ("timeit", "-n1", "-r1", "pass"), ())
    threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        folder.run_all([[first, never]], 1, lambda name, ended: None)
    assert folder.record("first") is not None
    assert folder.record("never") is None


def test_another_setting_wants_another_folder(scripts: Any, tmp_path: Path) -> None:
    stages = scripts("stages")
    stages.Folder(tmp_path, {"samples": 5})
    with pytest.raises(SystemExit, match=r"\{'samples': \(5, 1\)\}"):
        stages.Folder(tmp_path, {"samples": 1})


@pytest.fixture(scope="module")
def start(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models, and test tasks that the policy passes by writing nothing but a comment: in half of them."""
    folder = tmp_path_factory.mktemp("arms") / "quickstart"
    shutil.copytree(workspace / HOME, folder)
    body = "def f(x):\n    return x\n# "
    tasks = [
        {
            "task_id": f"t/{n}",
            "prompt": body + "abcdefgh"[n],
            "entry_point": "f",
            "test": f"def check(f):\n    assert f({n % 2}) == 0\n",
        }
        for n in range(8)
    ]
    (folder / "tasks" / "test.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return folder


def _passed(run_dir: Path) -> float:
    """Counted in another way than the script's: by its text."""
    text = (run_dir / "completions.jsonl").read_text()
    return len(re.findall(r'"passed": true', text)) / len(text.splitlines())


def test_a_tiny_run(start: Path, tmp_path: Path) -> None:
    """Two arms, one iteration, one seed: the table holds what the runs left, and a second call runs nothing."""
    flags = ["--flag=--model.max_iterations=1", "--flag=--model.max_new_tokens=8"]
    what = ["--start", str(start), "--seeds=1", "--samples=3", "--jobs=2", "--arms", "random", "best_worst"]
    command = [sys.executable, str(SCRIPTS / "arms.py"), str(tmp_path / "arms"), *what, *flags]
    first = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert first.returncode == 0, first.stderr
    home, stages = tmp_path / "arms" / HOME, tmp_path / "arms" / "stages"
    table = (tmp_path / "arms" / "arms.md").read_text()
    before = {
        kind: _passed(home / name) for kind, name in (("greedy", "sft_greedy"), ("sampled", "sft_sampled_seed_0"))
    }
    assert before["greedy"] > 0
    assert before["sampled"] > 0
    for arm in ("random", "best_worst"):
        run_dir = home / f"{arm}_seed_0"
        rates = {kind: _passed(home / f"{arm}_seed_0_{kind}") for kind in ("greedy", "sampled")}
        rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
        assert len(rows) == 1
        row = _row(table, arm)
        assert [row[2], row[4]] == [f"{rate:.3f}" for rate in rates.values()]
        assert [row[3].split()[0], row[5].split()[0]] == [f"{rates[kind] - before[kind]:+.3f}" for kind in rates]
        cpu_s = json.loads((stages / f"{arm}_seed_0.json").read_text())["cpu_s"]
        assert cpu_s > 1
        assert row[6:] == [
            f"{cpu_s:.1f}",
            *(f"{float(rows[0][name]):.2f}" for name in ("rollout/reward_mean", "rollout/kl")),
        ]
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        assert config["filter"]["init_args"]["strategy"] == arm
        assert row[1] == "128 / 2"
    left = {path: path.stat().st_mtime_ns for path in [*stages.iterdir(), *home.rglob("*")]}
    second = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert {path: path.stat().st_mtime_ns for path in [*stages.iterdir(), *home.rglob("*")]} == left
    assert "best_worst - random" in first.stdout


def test_every_seed_reaches_every_draw(scripts: Any) -> None:
    """Each arm's commands carry the seed to all that draws; PPO-S and PPO-M have no filter to give one to."""
    arms = scripts("arms")
    for name, arm in arms.ARMS.items():
        arguments = set(arms.trained(name, 3, ["--model.max_iterations=1"]).arguments)
        wanted = {f"--{what}=3" for what in ("seed_everything", "model.seed", "data.seed", "update.seed")}
        assert wanted | set(arm.flags) <= arguments
        assert ("--filter.seed=3" in arguments) == (arm.config == "pf_ppo.yaml")
        assert "--model.max_iterations=1" in arguments
    sampled = {"--model.seed=3", "--model.eval_samples=5", "--model.eval_temperature=1.0"}
    assert sampled <= set(arms.tested("sft", "there", 5, 3).arguments)
    assert not sampled & set(arms.tested("sft", "there", 0, 3).arguments)  # the config is greedy
    names = [stage.name for chain in arms.chains(list(arms.ARMS), 2, 5, []) for stage in chain]
    assert len(names) == len(set(names)) == 2 + 2 * (1 + 3 * len(arms.ARMS))
