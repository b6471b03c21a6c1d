"""How far a reward can be trusted: the report by hand, against the function that it calls, and a real test run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, RewardReliability
from tamis.callbacks.reliability_report import (
    Report,
    Settings,
    as_json,
    candidates,
    matrices,
    measure,
    most_reliable,
    report,
    tables,
)
from tamis.cli import run
from tamis.functional import RSquared, r_squared, rank_agreement, wilson_interval
from tamis.modules import CodePolicy, Reward

TEST = "def check(f):\n    assert f() == 1\n"
TASK = {"prompt": "def f():\n    return 1\n#", "entry_point": "f", "test": TEST}
NAMES = ["none", "random", "best_of_n", "best_random", "best_worst", "power_1", "power_2", "power_3"]
SETTINGS = Settings(bins=10, binning="quantile", bootstrap=100, seed=0)


class Lines(Reward):
    """One line of any text is a comment and passes; more of them mostly do not."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([-text.count("\n") + len(text) / 100 for text in completions])


def _draws(tasks: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rewards that are the chance to pass."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(tasks, 5, generator=generator)
    return rewards, torch.rand(rewards.shape, generator=generator).lt(rewards).float()


def _report(rewards: Tensor, passed: Tensor, settings: Settings = SETTINGS) -> Report:
    return report(rewards, passed, candidates(2, (1.0, 2.0, 3.0), None, None), settings)


def test_measure_equals_r_squared_of_the_rows_that_each_strategy_keeps() -> None:
    """Ranks by hand: the best of each row, and the best with the worst, without ties."""
    rewards, passed = _draws()
    settings = Settings(bins=6, binning="width", bootstrap=20, seed=3)
    fits = measure(rewards, passed, candidates(2, (2.0,), 0.7, 0.3), settings)
    order = rewards.argsort(dim=1, descending=True)
    columns = {"none": torch.arange(5).expand(40, 5), "best_of_n": order[:, :1], "best_worst": order[:, [0, -1]]}
    for strategy, kept in columns.items():
        values = rewards.gather(1, kept).flatten(), passed.gather(1, kept).flatten()
        groups = torch.arange(40).repeat_interleave(kept.shape[1])
        expected = r_squared(*values, 6, "width", bootstrap=20, seed=3, groups=groups)
        assert fits[strategy].value == pytest.approx(expected.value), strategy
        assert (fits[strategy].low, fits[strategy].high) == pytest.approx((expected.low, expected.high))
        assert fits[strategy].bin_counts.tolist() == expected.bin_counts.tolist()
    assert list(fits) == [*NAMES[:5], "power_2", "top", "top_random", "top_bottom"]
    assert int(fits["best_random"].bin_counts.sum()) == 80
    above = float((fits["top"].bin_rewards * fits["top"].bin_counts).sum() / 80)
    everyone = float((fits["random"].bin_rewards * fits["random"].bin_counts).sum() / 80)
    assert above > everyone + 0.1


def test_the_power_decides_what_is_drawn() -> None:
    """Weights |r|^k: a high exponent draws the largest of every row nearly always, a low one any."""
    rewards, passed = _draws(200)
    fits = measure(rewards, passed, candidates(2, (0.01, 50.0), None, None), SETTINGS)
    means = {name: float((fit.bin_rewards * fit.bin_counts).sum() / fit.bin_counts.sum()) for name, fit in fits.items()}
    assert means["power_0.01"] == pytest.approx(0.5, abs=0.05)  # uniform: 1/2
    assert means["power_50"] == pytest.approx(5 / 6, abs=0.05)  # the largest of five uniform numbers


def test_flags_are_options_of_the_filter(capsys: pytest.CaptureFixture[str]) -> None:
    by_name = {candidate.name: candidate for candidate in candidates(2, (2.0,), 0.7, 0.3)}
    assert by_name["best_worst"].flags() == "--filter.strategy=best_worst --filter.keep=2"
    assert by_name["best_of_n"].flags() == "--filter.strategy=best_of_n --filter.keep=1"
    assert by_name["none"].flags() == "--filter.strategy=none"
    for candidate in by_name.values():
        with pytest.raises(SystemExit) as end:
            run(["fit", "--model=CodePolicy", "--filter=Filtration", *candidate.flags().split(), "--print_config"])
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert f"strategy: {candidate.strategy}\n" in printed
        values = {"power": candidate.power, "mode": candidate.mode, "high": candidate.high, "low": candidate.low}
        for name, value in values.items():
            assert f"    {name}: {'null' if value is None else value}\n" in printed


def test_a_reward_that_is_the_pass_probability_fits_a_line_and_one_that_knows_nothing_none() -> None:
    fits = _report(*_draws(800)).fits
    assert fits["none"].value > 0.98
    assert fits["none"].slope == pytest.approx(1.0, abs=0.08)
    assert fits["none"].intercept == pytest.approx(0.0, abs=0.05)
    rewards = _draws(800)[0]
    passed = torch.rand(800, 5, generator=torch.Generator().manual_seed(2)).lt(0.5).float()
    assert abs(_report(rewards, passed).fits["none"].slope) < 0.1


def test_a_reward_right_at_both_ends_and_wrong_in_the_middle_recommends_best_worst() -> None:
    """The paper's case: none passes at one end, all at the other, and between them the pass rate goes up and down."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(400, 5, generator=generator)
    edges = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7])
    chances = torch.tensor([0.0, 0.8, 0.2, 0.8, 0.2, 1.0])[torch.bucketize(rewards, edges)]
    found = _report(rewards, torch.rand(rewards.shape, generator=generator).lt(chances).float())
    assert found.recommended == "best_worst"
    assert found.fits["best_worst"].low > found.fits["none"].high


def _fit(low: float, slope: float = 1.0, value: float = 0.5) -> RSquared:
    return RSquared(value, low, 1.0, slope, 0.0, torch.zeros(1), torch.zeros(1), torch.ones(1))


def test_the_lower_bound_decides() -> None:
    fits = {"a": _fit(0.3, value=0.9), "b": _fit(0.4, value=0.5), "falling": _fit(0.9, slope=-1.0), "n": _fit(math.nan)}
    assert most_reliable(fits) == "b"
    assert most_reliable({"a": _fit(0.4), "b": _fit(0.4)}) == "a"
    assert most_reliable({"a": _fit(0.4), "b": _fit(0.4)}, present="b") == "b"
    assert most_reliable({"a": _fit(0.4), "b": _fit(0.5)}, present="a") == "b"
    assert most_reliable({"a": _fit(1.0), "b": _fit(1.0 + 1e-15)}, present="a") == "a"  # rounding is no reason
    assert most_reliable({"a": _fit(1.0), "b": _fit(1.0 + 1e-15)}) == "a"
    assert most_reliable({"falling": fits["falling"], "n": fits["n"]}, present="n") is None


def test_the_control_is_never_recommended() -> None:
    """`random` is `none` with fewer responses; with these seeds its bound is the highest, by luck."""
    for seed in (62, 69):
        found = _report(*_draws(30, seed))
        assert most_reliable(found.fits) == "random"
        assert found.recommended not in (None, "random")


def test_the_same_seed_measures_the_same() -> None:
    rewards, passed = _draws()
    first, second, other = (
        _report(rewards, passed, Settings(4, "quantile", 10, seed)).fits["best_random"] for seed in (0, 0, 1)
    )
    assert (first.value, first.low) == (second.value, second.low)
    assert first.value != other.value


def test_buckets_have_wilson_intervals_and_the_file_says_everything() -> None:
    rewards, passed = _draws()
    found = _report(rewards, passed)
    file = json.loads(json.dumps(as_json(found, left_out=3), allow_nan=False))
    assert list(file["strategies"]) == NAMES
    everything = file["strategies"]["none"]
    assert everything["bin_counts"] == [20] * 10
    for rate, low, high in zip(*(everything[f"bin_{name}"] for name in ("scores", "lows", "highs")), strict=True):
        assert (low, high) == pytest.approx(tuple(wilson_interval(rate, 20)))
    tasks = torch.arange(40).repeat_interleave(5)
    agreement = rank_agreement(rewards.flatten(), passed.flatten(), tasks, 100, 0)
    assert file["kendall_tau"] == agreement.tau._asdict()
    assert file["auc"] == agreement.auc._asdict()
    assert file["auc_within_tasks"] == agreement.auc_within._asdict()
    assert (file["tasks"], file["samples_per_task"], file["tasks_left_out"]) == (40, 5, 3)
    assert file["pass_rate"] == pytest.approx(float(passed.mean()))
    assert file["settings"] == {"bins": 10, "binning": "quantile", "bootstrap": 100, "seed": 0}
    best = max((name for name in NAMES if name != "random"), key=lambda name: found.fits[name].low)
    assert file["recommended"] == {"strategy": best, "flags": found.candidates[best].flags()}
    assert "depends on the bins and on the range" in file["why"]


def _text(found: Report) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(tables(found))
    return capture.get()


def test_the_tables_say_what_to_do() -> None:
    found = _report(*_draws())
    text = " ".join(_text(found).split())
    fit = found.fits["best_random"]
    assert f"{fit.value:.3f} │ [{fit.low:.3f}, {fit.high:.3f}]" in text
    assert f"Kendall's tau-b {found.agreement.tau.value:.3f} [{found.agreement.tau.low:.3f}" in text
    assert f"{found.recommended} has the highest lower bound of R^2" in text
    assert f"Use it: {found.candidates[str(found.recommended)].flags()}" in text


def test_without_any_line_nothing_is_recommended() -> None:
    rewards = _draws()[0]
    found = _report(rewards, torch.zeros(40, 5))
    assert found.recommended is None
    assert as_json(found, 0)["recommended"] is None
    assert "No strategy is recommended" in " ".join(_text(found).split())
    assert "Use it" not in _text(found)


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
    temperature = 1.0 if samples > 1 else 0.0
    module = CodePolicy(
        model,
        reward,
        max_new_tokens=4,
        critic="none",
        reference=False,
        eval_samples=samples,
        eval_temperature=temperature,
    )
    trainer.test(module, DataLoader(records, batch_size=3, collate_fn=list), verbose=False)  # type: ignore[arg-type]


def test_a_real_test_run_writes_numbers_and_a_picture(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = RewardReliability(bins=3, bootstrap=10)
    for name in ("first", "second"):  # a second run starts with no samples
        _test(tmp_path / name, callback, tiny_model, Lines(), samples=6)
        found = json.loads((tmp_path / name / "reliability.json").read_text())
        assert list(found["strategies"]) == NAMES
        assert sum(found["strategies"]["none"]["bin_counts"]) == 36
        assert sum(found["strategies"]["best_worst"]["bin_counts"]) == 12
        assert found["strategies"]["none"]["slope"] > 0
        assert (tmp_path / name / "reliability.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert f"Use it: {found['recommended']['flags']}" in capsys.readouterr().out


@pytest.mark.parametrize("passed", [0.0, 1.0])
def test_a_run_in_which_all_end_alike_writes_json_that_any_reader_takes(passed: float, tmp_path: Path) -> None:
    """No line goes through points of one height: R^2 is null, not the NaN that JSON does not know."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    callback = RewardReliability(bins=2, bootstrap=3)
    rows = [
        {"task_id": task, "sample": index, "reward": float(task + index), "passed": bool(passed), "status": "failed"}
        for task in range(3)
        for index in range(3)
    ]
    callback._report(rows, tmp_path / "deep" / "report")
    text = (tmp_path / "deep" / "report" / "reliability.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found["strategies"]["none"]["value"] is None
    assert found["kendall_tau"]["value"] is None
    assert found["strategies"]["none"]["bin_scores"] == [passed] * 2
    assert found["recommended"] is None


@pytest.mark.parametrize(
    ("samples", "reward", "bins", "message"),
    [
        (1, True, 2, r"the same number \(2 or more\) of samples of every task, got \[1\]; set `--model.eval_samples 5"),
        (2, False, 2, "needs rewards; set `--model.reward LearnedReward`"),
        (2, True, 10, "those of 6 tasks cannot fill bins=10; take more tasks"),
    ],
)
def test_a_run_that_measures_nothing_stops_before_it_samples(
    samples: int, reward: bool, bins: int, message: str, tiny_model: str, tmp_path: Path
) -> None:
    class Unasked(Lines):
        def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
            raise AssertionError("sampled")

    with pytest.raises(ValueError, match=message):
        _test(tmp_path, RewardReliability(bins=bins), tiny_model, Unasked() if reward else None, samples)
    assert not (tmp_path / "reliability.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "need bins >= 2"),
        ({"binning": "log"}, "got 10, 'log' and 1000"),
        ({"keep": 0}, "keep and every_n_iterations must be at least 1"),
        ({"probe": 1}, "a probe set needs 2 or more tasks"),
        ({"probe": 10, "probe_samples": 1}, "a probe set needs 2 or more tasks and samples of each, got 10 and 1"),
        ({"divergence_threshold": 0.0}, "divergence_threshold above 0"),
        ({"low": 0.1}, "needs high as well"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardReliability(**options)


def test_only_policies_whose_answers_can_be_tested(tmp_path: Path) -> None:
    for stage, callback in (("test", RewardReliability()), ("fit", RewardReliability(probe=10))):
        with pytest.raises(ValueError, match="needs a CodePolicy, whose answers can be tested; got Linear"):
            callback.setup(Trainer(default_root_dir=tmp_path), torch.nn.Linear(1, 1), stage)  # type: ignore[arg-type]


def _row(task: object, sample: int, **more: Any) -> dict[str, Any]:
    return {"task_id": task, "sample": sample, "reward": float(sample), "passed": True, "status": "passed", **more}


def test_tasks_with_different_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \[2, 3\] of the tasks whose samples all have a verdict \(2 of 2\)"):
        matrices([_row(task, sample) for task, sample in [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]])


def test_tasks_without_all_verdicts_or_rewards_are_left_out(tmp_path: Path) -> None:
    rows = [_row(1, 0), _row(1, 1), _row(2, 0, passed=False), _row(2, 1, passed=False)]
    rows += [_row(3, 0, status="internal"), _row(3, 1), _row(4, 0), _row(4, 1, reward=math.nan)]
    names, rewards, passed = matrices(rows)
    assert names == ["1", "2"]
    assert rewards.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert passed.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    with pytest.warns(UserWarning, match="2 tasks are left out"):
        RewardReliability(bins=2, bootstrap=2)._report(rows, tmp_path)


def test_the_strategies_of_the_report_are_those_of_training() -> None:
    """Every candidate is a Filtration that can be made."""
    for candidate in candidates(2, (1.0,), 0.7, 0.3):
        keep = candidate.keep or 5
        Filtration(candidate.strategy, keep, candidate.mode, candidate.power, candidate.high, candidate.low)
