"""What the demo says of its results; the runs themselves are `make demo`."""

from __future__ import annotations

import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tamis.demo.code import CodeResults, PassRates, _draw
from tamis.demo.images import ArmResult, ImageResults
from tamis.demo.run import _fresh, _into_log, code_table, image_table
from tamis.functional import Difference


def _code(greedy: list[float], before: float = 0.4) -> CodeResults:
    results = CodeResults(400, PassRates(before, 0.3, 60.0), 0.75, Path("pf_ppo.png"))
    results.arms = {"PF-PPO best-worst": [PassRates(rate, 0.35, 20.0) for rate in greedy]}
    results.reliability = {"none": {"value": 0.5, "low": 0.4, "high": 0.6}}
    return results


def _text(renderable: Table) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_one_seed_has_the_tasks_binomial_error() -> None:
    """sqrt(0.5 * 0.5 / 400) = 0.025."""
    assert _code([0.5]).greedy("PF-PPO best-worst") == pytest.approx((0.5, 0.025))


def test_seeds_add_their_own_error() -> None:
    """0.4 and 0.6: mean 0.5, seeds' error sqrt(0.02 / 2) = 0.1, tasks' 0.025; together sqrt(0.010625)."""
    mean, error = _code([0.4, 0.6]).greedy("PF-PPO best-worst")
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx(math.sqrt(0.01 + 0.000625))


@pytest.mark.parametrize(
    ("after", "verdict"), [(0.6, "a real gain"), (0.42, "no gain beyond noise"), (0.2, "a real loss")]
)
def test_the_summary_claims_what_was_measured(after: float, verdict: str) -> None:
    assert verdict in _code([after]).summary()


def test_the_tables_show_before_and_after() -> None:
    text = _text(code_table(_code([0.5])))
    assert "0.400 ± 0.024" in text
    assert "0.500 ± 0.025" in text
    arm = ArmResult("baseline", {"accuracy": [0.6, 0.7], "balanced_accuracy": [0.5], "macro_f1": [0.4]}, [10.0, 20.0])
    images = ImageResults([arm], [0, 1], [Difference(0.02, 0.005, 4.0)], 500, Path("noise_mask.png"))
    text = _text(image_table(images))
    assert "0.650 ± 0.050" in text
    assert "+0.020 ± 0.005" in text


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    results = _code([0.5, 0.6])
    results.picture = tmp_path / "pf_ppo.png"
    results.reliability["best_worst"] = results.reliability["none"]
    fit = {"value": 0.5, "bin_rewards": [-1.0, 1.0], "bin_scores": [0.2, 0.8]}
    _draw(results, json.loads(json.dumps({"none": fit, "best_worst": fit})))
    assert results.picture.read_bytes().startswith(b"\x89PNG")


def test_a_second_demo_leaves_the_first_alone(tmp_path: Path) -> None:
    assert _fresh(tmp_path / "demo") == tmp_path / "demo"
    assert _fresh(tmp_path / "demo") == tmp_path / "demo-2"
    assert _fresh(tmp_path / "demo") == tmp_path / "demo-3"


def test_what_runs_alongside_can_be_sent_to_another_process(tmp_path: Path) -> None:
    """A spawned process writes everything it prints into its log, and nothing onto our terminal."""
    log = tmp_path / "other.log"
    with ProcessPoolExecutor(1, get_context("spawn"), _into_log, (log,)) as pool:
        pool.submit(print, "said elsewhere", flush=True).result(timeout=120)
    assert "said elsewhere" in log.read_text()
