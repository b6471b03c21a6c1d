"""benchmarks/noise_mask.py: a tiny real run of it against its raw numbers, and what its clocks and steps take in."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports the scripts as they import each other."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def _rows(text: str) -> list[list[str]]:
    """The cells of every line of every table, with what is broken over lines put together again."""
    rows: list[list[str]] = []
    fresh = True
    for line in text.splitlines():
        if line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            if fresh or cells[1]:
                rows.append(cells)
            else:
                rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], cells, strict=True)]
            fresh = False
        else:
            fresh = True
    return rows


def _seconds(*turns: float, **others: float) -> list[dict[str, float]]:
    return [{"cpu_s": turn, "system_s": 0.1 * turn, "peak_mb": 900.0, **others} for turn in turns]


def _printed(console: Console, renderable: object) -> str:
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


# The arithmetic


def test_ratios_are_those_worked_out_by_hand(scripts: Any) -> None:
    """Least over least: 3.3 / 3 = 1.1, though the turns' own ratios are 3.5 / 3.5 = 1 and 3.3 / 3 = 1.1.

    Kinds of different groups took no turns together and have no ratio by turn: 3.3 / 2 = 1.65.
    """
    script = scripts("noise_mask")
    steps = {name: _seconds(1.0, 2.0) for group in script.GROUPS for name in group}
    steps |= {"noise mask": _seconds(3.5, 3.3), "both networks, bare": _seconds(3.5, 3.0)}
    steps["classifier, bare"] = _seconds(2.0, 2.5)
    steps["noise mask, policy at half size"] = _seconds(2.4, 2.5)
    rows = {row[0]: row[1:] for row in _rows(_printed(Console(width=200), script.ratio_table(steps)))}
    assert rows["noise mask / both networks, bare"] == ["1.100", "1.000 1.100", "at most 1.10"]
    assert rows["noise mask, policy at half size / classifier, bare"] == ["1.200", "1.200 1.000", "at most 1.25"]
    assert rows["noise mask / classifier, bare"] == ["1.650", "", ""]


def test_what_a_step_takes_beside_its_networks(scripts: Any) -> None:
    """.300 - .250 = 50 ms, of it 10 ms logging; of a step of 4 s that is 1.25%, and one head ran twice once."""
    script = scripts("noise_mask")
    steps = {
        "noise mask, small networks": _seconds(0.3, 0.4, log_s=0.01),
        "small networks, bare": _seconds(0.35, 0.25),
        "noise mask": [*_seconds(5.0, alpha_head=1, beta_head=1), *_seconds(4.0, alpha_head=1, beta_head=2)],
    }
    assert "takes 50 ms, of it logging 10 ms: 1.2% of" in script.remainder(steps)
    assert "in a step: 1 and 1 or 1 and 2 (aim: 1 and 1)" in script.evaluations(steps)


# What is measured


def test_the_clock_takes_in_one_step_and_no_waiting(scripts: Any) -> None:
    """Between two requests for a batch: the loop's CPU time and what hooks noted; no sleep, nothing of other steps."""
    here, there = Pipe()
    orders = scripts("mask_steps").Orders(there, ("images", "labels"))
    for order in (True, True, False):
        here.send(order)
    answers = []
    for number, batch in enumerate(orders):
        assert batch == ("images", "labels")
        orders.notes["steps"] += 1
        if number:
            time.sleep(0.3)
        else:
            until = time.process_time() + 0.2
            while time.process_time() < until:
                pass
    while here.poll():
        answers.append(here.recv())
    assert [answer["steps"] for answer in answers] == [1, 1]
    assert 0.2 <= answers[0]["cpu_s"] < 0.25
    assert answers[1]["cpu_s"] < 0.1


@pytest.mark.parametrize("masks", [1, 2])
def test_a_bare_step_moves_both_networks_and_nothing_else(scripts: Any, masks: int) -> None:
    """Trunk, heads and classifier, on as many rows as a step has; the running averages are no part of it and stay."""
    steps = scripts("mask_steps")
    here, there = Pipe()
    module = steps.noise_mask(steps.QUICK, masks)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rows: list[int] = []
    module.classifier.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    module.policy.trunk.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    here.send(True)
    here.send(False)
    images = steps.QUICK.batch // masks
    batch = torch.randn(images, 3, 48, 48), torch.randint(5, (images,))
    steps.run_bare(module, masks, steps.Orders(there, batch))
    assert rows == [images, steps.QUICK.batch]
    after = module.state_dict()
    assert all(parameter.grad is not None for parameter in module.parameters())
    for part in ("policy.trunk", "policy.alpha_head", "policy.beta_head", "network"):
        moved = [name for name, _ in module.named_parameters() if name.startswith(part)]
        assert any(not torch.equal(before[name], after[name]) for name in moved), part
    assert torch.equal(before["policy.base_alpha"], after["policy.base_alpha"])


def test_ways_to_the_same_thing_give_the_same(scripts: Any) -> None:
    """What stands side by side in a row computes the same numbers; cells and precision aside."""
    components = scripts("mask_components")
    functions = components.ways(scripts("mask_steps").QUICK)
    listed = {(row.name, way) for row in components.COMPONENTS for way in (row.way, row.other)}
    assert set(functions) == listed
    for name in (components.MASKS, components.OBJECTIVE, components.NORMS):
        first, second = (functions[way]() for way in functions if way[0] == name)
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


# The script


def test_a_quick_run(tmp_path: Path, scripts: Any) -> None:
    """Every line comes out, and its ratios are those of the numbers that were measured."""
    command = [sys.executable, str(SCRIPTS / "noise_mask.py"), "--quick", "--json", str(tmp_path / "numbers.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    steps = {name: [turn["cpu_s"] for turn in turns] for name, turns in numbers["steps"].items()}
    script, rows = scripts("noise_mask"), _rows(run.stdout)
    assert list(steps) == [name for group in script.GROUPS for name in group]
    assert {len(turns) for turns in steps.values()} == {2}
    cells = {row[0]: row[1:] for row in rows}
    for name, turns in steps.items():
        assert cells[name][0] == f"{min(turns):.3f} (to {max(turns):.3f})"
    for top, bottom, aim in script.RATIOS:
        row = cells[f"{top} / {bottom}"]
        assert row[0] == f"{min(steps[top]) / min(steps[bottom]):.3f}"
        assert row[2] == aim
    parts = numbers["components_ms"]
    for name, way, other, aim in script.COMPONENTS:
        taken = [f"{min(parts[f'{name}: {one}']):.1f} (to {max(parts[f'{name}: {one}']):.1f})" for one in (way, other)]
        assert [name, way, taken[0], other, taken[1], aim] in rows
    assert "in a step: 1 and 1 (aim: 1 and 1)" in run.stdout
    assert re.search(r"takes -?\d+ ms, of it logging \d+ ms", run.stdout)
    trained = [turn for name, turns in numbers["steps"].items() for turn in turns if name.startswith(("noise", "two"))]
    assert all(turn["log_s"] > 0 and turn["alpha_head"] == turn["beta_head"] == 1 for turn in trained)
