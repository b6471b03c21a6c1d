"""How far a reward can be trusted: the callback against the function that it calls, and a real test run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import RewardReliability
from tamis.functional import r_squared
from tamis.modules import CodePolicy, Reward

TEST = "def check(f):\n    assert f() == 1\n"
TASK = {"prompt": "def f():\n    return 1\n#", "entry_point": "f", "test": TEST}


class Lines(Reward):
    """One line of any text is a comment and passes; more of them mostly do not."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([-text.count("\n") + len(text) / 100 for text in completions])


def _draws(rewards: Tensor) -> tuple[Tensor, Tensor]:
    return rewards, torch.rand(rewards.shape, generator=torch.Generator().manual_seed(1)).lt(rewards).float()


def _reliability(rewards: Tensor, passed: Tensor, **options: Any) -> tuple[dict[str, Any], RewardReliability]:
    callback = RewardReliability(**options)
    return {str(name): fit for name, fit in callback.measure(rewards, passed).items()}, callback


def test_measure_equals_r_squared_of_the_rows_that_each_strategy_keeps() -> None:
    """Ranks by hand: the best of each row, and the best with the worst, without ties."""
    rewards, passed = _draws(torch.rand(40, 5, generator=torch.Generator().manual_seed(0)))
    report, _ = _reliability(rewards, passed, bins=6, binning="width", bootstrap=20, seed=3)
    order = rewards.argsort(dim=1, descending=True)
    columns = {"none": torch.arange(5).expand(40, 5), "best_of_n": order[:, :1], "best_worst": order[:, [0, -1]]}
    for strategy, kept in columns.items():
        expected = r_squared(
            rewards.gather(1, kept).flatten(), passed.gather(1, kept).flatten(), 6, "width", bootstrap=20, seed=3
        )
        assert report[strategy].value == pytest.approx(expected.value), strategy
        assert (report[strategy].low, report[strategy].high) == pytest.approx((expected.low, expected.high))
        assert report[strategy].bin_counts.tolist() == expected.bin_counts.tolist()
    assert sorted(report) == ["best_of_n", "best_random", "best_worst", "none"]
    assert int(report["best_random"].bin_counts.sum()) == 80


def test_a_reward_that_is_the_pass_probability_fits_a_line() -> None:
    rewards, passed = _draws(torch.rand(800, 5, generator=torch.Generator().manual_seed(0)))
    report, _ = _reliability(rewards, passed, bootstrap=0)
    assert report["none"].value > 0.98
    assert report["none"].slope == pytest.approx(1.0, abs=0.08)
    assert report["none"].intercept == pytest.approx(0.0, abs=0.05)


def test_a_reward_that_knows_nothing_fits_none() -> None:
    rewards = torch.rand(800, 5, generator=torch.Generator().manual_seed(0))
    passed = torch.rand(800, 5, generator=torch.Generator().manual_seed(2)).lt(0.5).float()
    report, _ = _reliability(rewards, passed, bootstrap=0)
    assert abs(report["none"].slope) < 0.1


def test_the_same_seed_measures_the_same() -> None:
    rewards, passed = _draws(torch.rand(40, 5))
    first, second, other = (
        _reliability(rewards, passed, bins=4, bootstrap=10, seed=seed)[0]["best_random"] for seed in (0, 0, 1)
    )
    assert (first.value, first.low) == (second.value, second.low)
    assert first.value != other.value


def _test(folder: Path, callback: RewardReliability, model: str, reward: Reward | None, samples: int) -> None:
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    records = [{"task_id": f"t/{index}", "prompt": TASK["prompt"], "task": TASK} for index in range(6)]
    module = CodePolicy(
        model, reward, max_new_tokens=4, critic="none", reference=False, eval_samples=samples, eval_temperature=1.0
    )
    trainer.test(module, DataLoader(records, batch_size=3, collate_fn=list), verbose=False)  # type: ignore[arg-type]


def test_a_real_test_run_writes_numbers_and_a_picture(tiny_model: str, tmp_path: Path) -> None:
    callback = RewardReliability(bins=3, bootstrap=10)
    for run in ("first", "second"):  # a second run starts with no samples
        _test(tmp_path / run, callback, tiny_model, Lines(), samples=6)
        report = json.loads((tmp_path / run / "reliability.json").read_text())
        assert sorted(report) == ["best_of_n", "best_random", "best_worst", "none"]
        assert sum(report["none"]["bin_counts"]) == 36
        assert sum(report["best_worst"]["bin_counts"]) == 12
        fields = ["bin_counts", "bin_rewards", "bin_scores", "high", "intercept", "low", "slope", "value"]
        assert sorted(report["none"]) == fields
        assert report["none"]["slope"] > 0
        assert (tmp_path / run / "reliability.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_run_in_which_nothing_passes_writes_json_that_any_reader_takes(tmp_path: Path) -> None:
    """No line goes through points of one height: R^2 is null, not the NaN that JSON does not know."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    callback = RewardReliability(bins=2, bootstrap=3, folder=str(tmp_path / "deep" / "report"))
    callback._rows = [
        {"task_id": task, "reward": float(task + index), "passed": False, "status": "failed"}
        for task in range(3)
        for index in range(3)
    ]
    callback.on_test_end(cast(Trainer, None), cast(LightningModule, None))
    text = (tmp_path / "deep" / "report" / "reliability.json").read_text()
    report = json.loads(text, parse_constant=refuse)
    assert report["none"]["value"] is None
    assert report["none"]["bin_scores"] == [0.0, 0.0]
    assert math.isnan(callback.measure(*callback._matrices())["none"].value)


@pytest.mark.parametrize(
    ("samples", "reward", "message"),
    [
        (1, True, r"the same number \(2 or more\) of samples of every task, got \[1\]; set `--model.eval_samples 5"),
        (2, False, "needs rewards; set `--model.reward LearnedReward`"),
    ],
)
def test_a_run_that_measures_nothing_says_why(
    samples: int, reward: bool, message: str, tiny_model: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        _test(tmp_path, RewardReliability(bins=2), tiny_model, Lines() if reward else None, samples)
    assert not (tmp_path / "reliability.json").exists()


def test_tasks_with_different_numbers_of_samples_are_refused() -> None:
    callback = RewardReliability()
    callback._rows = [{"task_id": task, "reward": 0.0, "passed": True, "status": "passed"} for task in (1, 1, 2, 2, 2)]
    with pytest.raises(ValueError, match=r"got \[2, 3\]"):
        callback._matrices()


def test_tasks_that_the_sandbox_lost_are_left_out() -> None:
    callback = RewardReliability()
    callback._rows = [
        {"task_id": task, "reward": float(task), "passed": task == 1, "status": status}
        for task, status in [(1, "passed"), (1, "passed"), (2, "failed"), (2, "failed"), (3, "internal"), (3, "failed")]
    ]
    with pytest.warns(UserWarning, match="1 tasks are left out"):
        rewards, passed = callback._matrices()
    assert rewards.tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert passed.tolist() == [[1.0, 1.0], [0.0, 0.0]]
