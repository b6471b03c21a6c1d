"""The probe set during training: what is measured, when it warns, and that training is none the wiser."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from tamis.callbacks import Filtration, PolicyCallback, ReinforceUpdate, RewardReliability
from tamis.callbacks.probe import Probed, Watch, probe_records, sample_probe
from tamis.datamodules import CodeTasks
from tamis.functional import distinct_n, r_squared, rank_agreement
from tamis.modules import CodePolicy, Reward, UnitTests

# Whatever follows the prompt is a comment, until its line ends.
TEST = "def check(f):\n    assert f() == 1\n"
MEASURED = ["reward", "pass_rate", "length", "distinct_2", "r_squared", "kendall_tau"]


class Lines(Reward):
    """Long answers, counted in lines, get more: what a policy can have without solving anything."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(text.count("\n")) for text in completions])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("probe") / "tasks.jsonl"
    prompts = [f"def f():\n    return 1\n#{'x' * (index % 8)}{index}" for index in range(40)]
    rows = [
        {"task_id": f"t/{index}", "prompt": prompt, "entry_point": "f", "test": TEST}
        for index, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _module(model: str, reward: Reward | None, iterations: int, rate: float = 3e-3) -> CodePolicy:
    return CodePolicy(
        model,
        reward,
        num_samples=8,
        max_new_tokens=6,
        critic="none",
        reference=False,
        policy_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate),
        schedule="constant",
        warmup_ratio=0.0,
        max_iterations=iterations,
    )


def _fit(
    folder: Path, module: CodePolicy, source: str, callbacks: Sequence[PolicyCallback], checkpoint: Path | None = None
) -> Trainer:
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[*callbacks, ReinforceUpdate(kl_coef=0.0)],
        logger=CSVLogger(str(folder), name="", version=""),
        log_every_n_steps=50,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
    )
    data = CodeTasks(train=source, validation=source, batch_size=8)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def _logged(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    return [row for row in rows if "val/probe_reward" in row]


@pytest.mark.parametrize(("reward", "iterations"), [(Lines(), 10), (UnitTests(), 7)], ids=["hackable", "honest"])
def test_a_hackable_reward_is_caught_and_an_honest_one_is_not(
    reward: Reward, iterations: int, tiny_model: str, source: str, tmp_path: Path
) -> None:
    """Some real iterations: the policy learns to write lines, which pass ever less; or to pass."""
    module = _module(tiny_model, reward, iterations)
    callback = RewardReliability(bins=5, bootstrap=10, probe=24, probe_samples=4, every_n_iterations=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _fit(tmp_path, module, source, [callback])
    parted = [str(warning.message) for warning in caught if "have parted" in str(warning.message)]
    rows = _logged(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, iterations + 1, 3))  # before updates 0, 3, 6, ...
    assert rows[-1]["val/probe_reward"] > rows[0]["val/probe_reward"] + 0.2
    if isinstance(reward, Lines):
        assert rows[-1]["val/probe_pass_rate"] < rows[0]["val/probe_pass_rate"] - 0.2
        assert len(parted) == 1  # once, though it goes on
        assert "read its answers (RolloutTable)" in parted[0]
    else:
        assert rows[-1]["val/probe_pass_rate"] > rows[0]["val/probe_pass_rate"] + 0.2
        assert parted == []
        assert all(row["val/probe_reward"] == row["val/probe_pass_rate"] for row in rows)


def test_the_numbers_are_those_of_the_same_samples(tiny_model: str, source: str, tmp_path: Path) -> None:
    module = _module(tiny_model, Lines(), iterations=2)
    records = probe_records(f"{source}[:8]", Trainer(default_root_dir=tmp_path))
    module.verifier.start()
    rows = module.judged_samples(records, 3, temperature=1.0)
    callback = RewardReliability(bins=4, binning="width", probe=f"{source}[:8]", probe_samples=3, every_n_iterations=1)
    _fit(tmp_path, module, source, [callback])
    first = _logged(tmp_path)[0]
    rewards, passed = (torch.tensor([float(row[key]) for row in rows]) for key in ("reward", "passed"))
    tokens = [module.tokenizer(row["completion"])["input_ids"] for row in rows]
    agreement = rank_agreement(rewards, passed, torch.arange(8).repeat_interleave(3), bootstrap=0)
    expected = [
        float(rewards.mean()),
        float(passed.mean()),
        sum(map(len, tokens)) / 24,
        distinct_n(tokens),
        r_squared(rewards, passed, 4, "width", bootstrap=0).value,
        agreement.tau.value,
    ]
    assert [first[f"val/probe_{name}"] for name in MEASURED] == pytest.approx(expected, rel=1e-5)
    assert "val/probe_reward_z" not in first
    assert "val/probe_reward_z" in _logged(tmp_path)[1]


def test_parts_of_the_probe_set_are_the_whole(tiny_model: str, source: str, tmp_path: Path) -> None:
    """However few rows at a time (one task at least), each task has the same samples."""
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False)
    module = _module(tiny_model, Lines(), iterations=2)
    records = probe_records(f"{source}[:5]", trainer)
    whole, parts, single = (sample_probe(trainer, module, records, 3, size) for size in (100, 7, 1))
    module.teardown("fit")
    assert whole == parts == single
    assert [(row["task_id"], row["sample"]) for row in whole] == [(f"t/{t}", s) for t in range(5) for s in range(3)]


def _watched(source: str) -> list[PolicyCallback]:
    probe = RewardReliability(bins=5, bootstrap=20, probe=f"{source}[:10]", every_n_iterations=2)
    return [probe, Filtration("auto", candidates=["best_worst", "best_of_n"])]


def test_measuring_changes_no_training(tiny_model: str, source: str, tmp_path: Path) -> None:
    plain, watched = (_module(tiny_model, Lines(), iterations=3) for _ in range(2))
    _fit(tmp_path / "plain", plain, source, [Filtration("best_worst")])
    reliability = _watched(source)[0]
    _fit(tmp_path / "watched", watched, source, [reliability, Filtration("best_worst")])
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
    assert isinstance(reliability, RewardReliability)
    assert reliability.probed is not None
    assert reliability.probed.iteration == 2


def test_a_resumed_run_goes_on_with_the_choice_and_the_watch(tiny_model: str, source: str, tmp_path: Path) -> None:
    """The checkpoint is of iteration 3; the next measurement is due at 4, behind the resumed run's end."""
    first, second = _watched(source), _watched(source)
    trainer = _fit(tmp_path / "first", _module(tiny_model, Lines(), iterations=3), source, first)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    module = _module(tiny_model, Lines(), iterations=4)
    _fit(tmp_path / "second", module, source, second, tmp_path / "cut.ckpt")
    assert module.iteration == 4
    for before, after in zip(first, second, strict=True):
        states = [callback.state_dict() for callback in (before, after)]
        newest = [Probed(**state.pop("probed")).means() for state in states if "probed" in state]
        assert states[0] == states[1]
        assert newest[:1] == newest[1:]
    assert len(first[0].state_dict()["best"]) == 10
    assert first[1].state_dict()["measured"] == 2
    assert isinstance(second[0], RewardReliability)
    assert second[0].probed is not None
    assert second[0].probed.iteration == 2


def _probed(iteration: int, rewards: list[float], passed: list[float], first: int = 0) -> Probed:
    """Two samples a task, around its means."""
    mine, verdicts = (torch.tensor([[value, value] for value in values]).double() for values in (rewards, passed))
    names = [str(first + task) for task in range(len(rewards))]
    return Probed(iteration, names, mine, verdicts, length=1.0, distinct_2=1.0)


def test_the_watch_warns_once_and_again_after_reward_and_pass_rate_have_met() -> None:
    watch = Watch(threshold=3.0)
    said = []
    for iteration, (reward, passed) in enumerate([(0, 1.0), (1, 0.0), (2, 0.0), (0, 1.0), (1, 0.5), (2, 1.0)]):
        found, warning = watch.compare(_probed(iteration, [float(reward)] * 4, [passed] * 4))
        assert (found is None) == (iteration == 0)
        said.append(warning is not None)
    assert said == [False, True, False, False, True, False]


def test_the_watch_compares_with_the_highest_pass_rate_so_far() -> None:
    """First it learns (0.2 to 0.8), then it cheats (0.5, still above the start): the start would see nothing wrong."""
    watch = Watch(threshold=3.0)
    assert watch.compare(_probed(0, [0.0] * 4, [0.2] * 4))[1] is None
    assert watch.compare(_probed(5, [1.0] * 4, [0.8] * 4))[1] is None
    found, warning = watch.compare(_probed(10, [2.0] * 4, [0.5] * 4))
    assert found is not None
    assert (found.reward_z, found.score_z) == (math.inf, -math.inf)
    assert warning is not None
    assert "from iteration 5 to 10 the mean reward rose from 1.000 to 2.000 (+inf standard errors)" in warning
    assert "the pass rate fell from 0.800 to 0.500 (-inf)" in warning


def test_the_watch_compares_the_tasks_that_both_measurements_have() -> None:
    """Tasks 2 and 3 are in both; the others would turn the sign."""
    watch = Watch(threshold=3.0)
    watch.compare(_probed(0, [100.0, 100.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]))
    found, _ = watch.compare(_probed(1, [2.0, 2.0, 0.0, 0.0], [0.5, 0.5, 1.0, 1.0], first=2))
    assert found is not None
    assert found.parted
    fresh = Watch(threshold=3.0)
    fresh.compare(_probed(0, [1.0], [1.0]))
    assert fresh.compare(_probed(1, [1.0], [1.0])) == (None, None)  # one task has no error
    assert fresh.compare(_probed(2, [1.0] * 3, [0.2] * 3, first=7)) == (None, None)  # none in common
    assert fresh.best_iteration == 2


def test_the_watch_goes_on_from_a_checkpoint() -> None:
    watch, resumed = Watch(threshold=3.0), Watch(threshold=3.0)
    watch.compare(_probed(0, [0.0] * 4, [1.0] * 4))
    watch.compare(_probed(1, [1.0] * 4, [0.0] * 4))
    resumed.load_state_dict(watch.state_dict())
    found, warning = resumed.compare(_probed(2, [1.0] * 4, [0.0] * 4))
    assert found is not None
    assert found.parted
    assert warning is None  # it was said before the checkpoint


def test_a_probe_set_without_verdicts_is_skipped(tiny_model: str, source: str, tmp_path: Path) -> None:
    class Lossy(CodePolicy):
        def judged_samples(self, batch: Any, n: int, temperature: float, top_p: float = 1.0) -> list[dict[str, Any]]:
            rows = super().judged_samples(batch, n, temperature, top_p)
            lost = ("t/1", "t/2") if self.iteration == 0 else ("t/1",)
            return [{**row, "status": "internal"} if row["task_id"] in lost else row for row in rows]

    module = Lossy(tiny_model, Lines(), 2, max_new_tokens=4, critic="none", reference=False, max_iterations=2)
    callback = RewardReliability(bins=5, bootstrap=2, probe=6, every_n_iterations=1)
    with pytest.warns(UserWarning, match="not measured at iteration 0: 4 tasks have all their verdicts.*5 are needed"):
        _fit(tmp_path, module, source, [callback])
    assert callback.probed is not None
    assert callback.probed.iteration == 1
    assert callback.probed.tasks == ["t/0", "t/2", "t/3", "t/4", "t/5"]


def test_the_probe_set_is_put_as_the_run_puts_tasks(tmp_path: Path) -> None:
    path = tmp_path / "mbpp.jsonl"
    rows = [
        {"task_id": n, "text": "Double x.", "code": "def f(x): ...", "test_list": ["assert f(1) == 2"]} for n in (1, 2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = Trainer(default_root_dir=tmp_path)
    plain = probe_records(str(path), trainer)
    data = CodeTasks(validation=str(path), prompt_style="few_shot", shots=str(path))
    data.setup("validate")
    trainer.datamodule = data  # type: ignore[attr-defined]
    assert probe_records(str(path), trainer) == data.records["validation"] == probe_records(2, trainer)
    assert probe_records(str(path), trainer)[0]["prompt"] != plain[0]["prompt"]
    with pytest.raises(ValueError, match=r"probe=3 takes that many validation tasks, and this run has 2; set `--data"):
        probe_records(3, trainer)
    path.write_text((json.dumps(rows[0]) + "\n") * 2)
    with pytest.raises(ValueError, match="has the task_id '1' more than once"):
        probe_records(str(path), trainer)


@pytest.mark.parametrize(
    ("options", "iterations", "message"),
    [
        ({"probe": 24, "every_n_iterations": 10}, 10, "measures the probe set only once in max_iterations=10"),
        ({"probe": 9}, 20, "those of 9 tasks cannot fill bins=10"),
        ({"probe": 41}, 20, "probe=41 takes that many validation tasks, and this run has 40"),
    ],
)
def test_a_probe_that_would_say_nothing_stops_the_run_before_it_starts(
    options: dict[str, Any], iterations: int, message: str, tiny_model: str, source: str, tmp_path: Path
) -> None:
    module = _module(tiny_model, Lines(), iterations)
    with pytest.raises(ValueError, match=message):
        _fit(tmp_path, module, source, [RewardReliability(**options)])
    assert module.iteration == 0


def test_a_long_prompt_of_the_probe_set_stops_the_run_before_it_starts(
    tiny_model: str, source: str, tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    rows[7]["prompt"] += "x" * 3000
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    module = _module(tiny_model, Lines(), 20)
    with pytest.raises(ValueError, match="the prompt of task 't/7' .* has"):
        _fit(tmp_path, module, source, [RewardReliability(probe=str(long))])
    assert module.iteration == 0
