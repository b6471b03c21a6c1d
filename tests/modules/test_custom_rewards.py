"""Rewards by config: Python functions, weighted sums, and what becomes of a sample that has no reward."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import PPOUpdate, RolloutMetrics
from tamis.cli import run
from tamis.execution import Status, Verdict
from tamis.modules import CodePolicy, LearnedReward, PythonReward, Reward, UnitTests, WeightedReward
from tamis.modules.policy import PolicyCallback
from tamis.modules.reward_failures import finite_rewards, mean_of_the_others
from tamis.modules.reward_function import load_function
from tamis.modules.rewards import Verifier

Tasks = list[dict[str, object]]
ROOT = Path(__file__).parents[2]
PROMPTS = ["p", "p", "q", "q"]
TEXTS = ["a", "bb", "ccc", "dddd"]


def _records(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    """Records as a rollout has them."""
    return [
        {"task_id": f"t{row}", "prompt": prompt, "completion": text, "task": {n: v[row] for n, v in columns.items()}}
        for row, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True))
    ]


def lengths(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    return [float(len(text)) for text in completions]


def _product(prompts: list[str], completions: list[str], factors: list[float]) -> list[float]:
    return [len(p + c) * factor for p, c, factor in zip(prompts, completions, factors, strict=True)]


class Nested:
    @staticmethod
    def ones(prompts: list[str], completions: list[str]) -> list[int]:
        return [1 for _ in completions]


class Given(Reward):
    """The numbers that it was made with."""

    def __init__(self, numbers: Any) -> None:
        super().__init__()
        self.numbers, self.closed, self.seen = numbers, 0, 0
        self.register_buffer("weight", torch.zeros(1))

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.seen = len(records)

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return self.numbers if not isinstance(self.numbers, list) else torch.tensor(self.numbers)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    "result",
    [
        lambda rows: [float(len(row)) for row in rows],
        lambda rows: tuple(len(row) for row in rows),
        lambda rows: torch.tensor([len(row) for row in rows]),
        lambda rows: torch.tensor([float(len(row)) for row in rows]).numpy(),
        lambda rows: [torch.tensor(float(len(row))) for row in rows],
    ],
)
def test_a_function_gives_the_rewards(result: Callable[[list[str]], Any]) -> None:
    rewards = PythonReward(lambda prompts, completions: result(completions))(_records(), TEXTS)
    assert rewards.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert rewards.dtype == torch.float32


def test_columns_are_the_fields_of_records_and_of_their_tasks() -> None:
    seen: dict[str, Any] = {}

    def function(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        seen.update(columns, prompts=prompts, completions=completions)
        return [0.0] * len(prompts)

    records = _records(level=[1, 2, 3, 4], task_id="abcd", prompt="wxyz", _source="1234")
    del records[2]["task"]["level"]
    records[0]["verdict"] = "passed"  # of another reward: it would hang on their order
    PythonReward(function)(records, TEXTS)
    assert seen["prompts"] == PROMPTS
    assert seen["completions"] == TEXTS
    assert seen["level"] == [1, 2, None, 4]
    assert seen["task_id"] == ["t0", "t1", "t2", "t3"]  # the record's goes before the task's
    assert seen["task"] == [record["task"] for record in records]
    assert set(seen) == {"prompts", "completions", "level", "task_id", "task"}


@pytest.mark.parametrize(
    "function",
    [
        lambda prompts, completions, level: _product(prompts, completions, level),
        lambda completions, level, prompts: _product(prompts, completions, level),
        lambda completions, **rest: _product(rest["prompts"], completions, rest["level"]),
        lambda questions, answers, level: _product(questions, answers, level),
        lambda level, texts, **rest: _product(level, texts, rest["factor"]),
    ],
)
def test_a_function_is_called_with_what_it_names(function: Callable[..., list[float]]) -> None:
    """By name where it names ``completions``, else prompts and completions are its first two, whatever their names."""
    records = _records(level=[1, 0, 2, 1], factor=[1, 0, 2, 1])
    assert PythonReward(function)(records, TEXTS).tolist() == [2.0, 0.0, 8.0, 5.0]


def test_functions_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Weight:\n    value: float = 2.0\n"
        "def score(prompts, completions):\n    return [Weight().value] * len(prompts)\n"
        "class Deep:\n    score = staticmethod(score)\n"
    )
    (tmp_path / "far_rewards.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])  # as of a console script
    names = ("far_rewards:score", "far_rewards.score", "far_rewards.py:score", f"{tmp_path}/far_rewards.py:score")
    for name in (*names, "far_rewards:Deep.score", "far_rewards.py:Deep.score"):
        assert PythonReward(name)(_records(), TEXTS).tolist() == [2.0] * 4
    assert load_function("math.sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("score", ValueError, "'score' is no name of a function; name a function as package.module:function"),
        ("no/where.py:score", FileNotFoundError, "no file no/where.py with a reward function"),
        ("no_such_package.part:score", ValueError, "'no_such_package.part:score' cannot be imported"),
        ("math:sqroot", ValueError, "math has no 'sqroot'.*Did you mean 'sqrt'"),
        ("math:pi", ValueError, "math:pi is a float and cannot be called"),
        ("math.sqrt", ValueError, r"the reward math.sqrt\(x, /\) cannot be called .*must take \(prompts, completions"),
        ("{tmp}/broken.py:score", ValueError, "broken.py cannot be run .ZeroDivisionError: division by zero"),
        ("{tmp}/waits.py:score", ValueError, "score is an async function"),
        ("{tmp}/few.py:score", ValueError, r"score\(prompts\) cannot be called"),
    ],
)
def test_names_that_lead_nowhere(name: str, error: type[Exception], says: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "waits.py").write_text("async def score(prompts, completions): return []\n")
    (tmp_path / "few.py").write_text("def score(prompts): return []\n")
    with pytest.raises(error, match=says):
        PythonReward(name.format(tmp=tmp_path))


def test_a_column_that_is_not_there_is_an_error_before_training(tiny_model: str, tasks: Tasks) -> None:
    def function(prompts: list[str], completions: list[str], difficulty: list[float]) -> list[float]:
        return difficulty

    module = _policy(tiny_model, WeightedReward([UnitTests(), PythonReward(function)], [1.0, 1.0]))
    with pytest.raises(ValueError, match=r"difficulty.* cannot be called .*columns there are: .*entry_point.*task_id"):
        _fit(module, tasks)
    assert module.iteration == 0
    with pytest.raises(ValueError, match="missing a required argument: 'difficulty'"):  # and when evaluating, at once
        PythonReward(function)(_records(), TEXTS)


def _of(values: Mapping[str, Any]) -> Callable[..., list[Any]]:
    """The value of each text; one that is an exception is raised."""

    def function(prompts: list[str], completions: list[str]) -> list[Any]:
        for text in completions:
            if isinstance(values.get(text), Exception):
                raise values[text]
        return [values.get(text, len(text)) for text in completions]

    return function


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "it returned None"),
        (math.nan, "it returned nan"),
        (-math.inf, "it returned -inf"),
        (1e39, "it returned 1e\\+39"),  # more than single precision holds
        ("0.5", "it returned '0.5', which is no number"),
        ({"score": 1}, "which is no number"),
        (KeyError("answer"), r"KeyError: 'answer' \(.*test_custom_rewards.py:\d+\)"),
        (SystemError("deep"), "SystemError: deep"),
    ],
)
def test_one_sample_without_a_reward_fails_alone(value: Any, cause: str) -> None:
    records = _records()
    with pytest.warns(UserWarning, match=f"1 of 4 .*failure_value=-7.0; the first, of task 't2': .*{cause}") as warned:
        rewards = PythonReward(_of({"ccc": value}), failure_value=-7.0)(records, TEXTS)
    assert rewards.tolist() == [1.0, 2.0, -7.0, 4.0]
    assert ["reward_failure" in record for record in records] == [False, False, True, False]
    assert len([warning for warning in warned if "failure_value" in str(warning.message)]) == 1


def test_alone_each_completion_keeps_its_prompt_and_columns() -> None:
    calls: list[tuple[list[str], list[str], list[int]]] = []

    def function(prompts: list[str], completions: list[str], level: list[int]) -> list[float]:
        calls.append((prompts, completions, level))
        if "bb" in completions:
            raise RuntimeError("bb")
        return [float(value) for value in level]

    with pytest.warns(UserWarning, match="1 of 4.*RuntimeError: bb"):
        assert PythonReward(function)(_records(level=[5, 6, 7, 8]), TEXTS).tolist() == [5.0, 0.0, 7.0, 8.0]
    alone = [([prompt], [text], [level]) for prompt, text, level in zip(PROMPTS, TEXTS, [5, 6, 7, 8], strict=True)]
    assert calls == [(PROMPTS, TEXTS, [5, 6, 7, 8]), *alone]


def test_the_failure_value_is_zero_unless_said_otherwise_and_all_may_fail() -> None:
    with pytest.warns(UserWarning, match="4 of 4"):
        assert PythonReward(_of(dict.fromkeys(TEXTS, RuntimeError())))(_records(), TEXTS).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="failure_value must be a finite number, got nan"):
        PythonReward(lengths, failure_value=math.nan)


def test_the_tasks_which_others_share_are_left_alone() -> None:
    tasks = [{name: value for name, value in record.items() if name != "completion"} for record in _records()]
    with pytest.warns(UserWarning, match="4 of 4"):
        PythonReward(_of(dict.fromkeys(TEXTS)))(tasks, TEXTS)
    assert not any("reward_failure" in task for task in tasks)


def test_what_stops_a_run_is_not_swallowed() -> None:
    def interrupted(prompts: list[str], completions: list[str]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PythonReward(interrupted)(_records(), TEXTS)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ([1.0, 2.0], r"2 values \(list\)"),
        ([1.0] * 5, r"5 values \(list\)"),
        (3.5, r"3.5 \(float\)"),
        (None, r"None \(NoneType\)"),
        ("abcd", r"'abcd' \(str\)"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, r"\(dict\)"),
        (torch.zeros(4, 1), r"\(Tensor\)"),
        (torch.tensor(1.0), r"\(Tensor\)"),
    ],
)
def test_a_wrong_length_or_no_list_is_an_error(returned: Any, got: str) -> None:
    def function(prompts: list[str], completions: list[str]) -> Any:
        return returned

    with pytest.raises(ValueError, match=rf"function was given 4 prompts.* returned .*{got}.*list of 4 numbers"):
        PythonReward(function)(_records(), TEXTS)


def test_a_weighted_sum_by_hand() -> None:
    """2 * len - 0.5 * 1: 1.5, 3.5, 5.5, 7.5."""
    parts = [PythonReward(lengths), PythonReward(Nested.ones)]
    assert WeightedReward([*parts], [2.0, -0.5])(_records(), TEXTS).tolist() == [1.5, 3.5, 5.5, 7.5]
    nested = WeightedReward([WeightedReward([*parts], [2.0, -0.5]), Given([1.0, 0.0, 0.0, 0.0])], [2.0, 1.0])
    assert nested(_records(), TEXTS).tolist() == [4.0, 7.0, 11.0, 15.0]


def test_the_parts_belong_to_the_whole() -> None:
    first, second = Given([0.0] * 4), Given([0.0] * 4)
    whole = WeightedReward([first, second], [1.0, 1.0]).to("meta")
    assert first.weight.device.type == second.weight.device.type == "meta"
    whole.check(_records())
    whole.close()
    assert (first.seen, second.seen, first.closed, second.closed) == (4, 4, 1, 1)

    class Stuck(Given):
        def close(self) -> None:
            raise OSError("stuck")

    with pytest.raises(RuntimeError, match="1 of 2 rewards could not be closed: Stuck: OSError: stuck"):
        WeightedReward([Stuck([]), second], [1.0, 1.0]).close()
    assert second.closed == 2


@pytest.mark.parametrize(
    ("rewards", "weights", "says"),
    [
        ([], [], "one weight a reward, got 0 rewards and 0 weights"),
        ([Given([])], [1.0, 2.0], "got 1 rewards and 2 weights"),
        ([Given([])], [math.inf], "weights must be finite"),
    ],
)
def test_weights_that_do_not_fit(rewards: list[Reward], weights: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        WeightedReward(rewards, weights)


def test_no_nan_gets_out_of_any_reward() -> None:
    """The mean of the prompt's others, by hand; the second prompt has none, so it gets the mean of all: 1."""
    records = _records()
    with pytest.warns(UserWarning, match="3 of 4 .*from Given .*the first: nan for task 't1'"):
        rewards = finite_rewards(Given([1.0, math.nan, math.inf, -math.inf]), records, TEXTS)
    assert rewards.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert [record.get("reward_failure") for record in records][:2] == [None, "Given gave nan"]
    whole = WeightedReward([Given([3.0, math.nan, 1.0, 3.0]), Given([1.0, 1.0, 1.0, math.nan])], [1.0, 10.0])
    with pytest.warns(UserWarning, match="1 of 4"):
        assert whole(_records(), TEXTS).tolist() == [13.0, 13.0, 11.0, 13.0]
    with pytest.raises(RuntimeError, match="Given gave no finite number for any of 4"):
        finite_rewards(Given([math.nan] * 4), _records(), TEXTS)
    for wrong in (torch.zeros(4, 1), torch.zeros(3), torch.tensor(1.0), 7):
        with pytest.raises(ValueError, match=r"Given returned .* for 4 completions; .* of shape \(4,\)"):
            finite_rewards(Given(wrong), _records(), TEXTS)
    with pytest.raises(ValueError, match="none of 2"):
        mean_of_the_others(["a", "b"], [None, None])


def test_sandbox_faults_are_not_the_models_in_a_sum_either() -> None:
    """Prompt p: 1 and a fault, which gets 1; prompt q: -1 and a fault, -1; ten times that, and the length."""

    class Faulty(Verifier):
        def run(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[Verdict]:
            statuses = ("passed", "internal", "failed", "internal")
            return [Verdict(Status(status), "r", 0.0, 0.0, "process") for status in statuses]

    tests = UnitTests(failed=-1.0)
    tests.verifier = Faulty()
    records = _records()
    whole = WeightedReward([tests, PythonReward(lengths)], [10.0, 1.0])
    assert whole(records, TEXTS).tolist() == [11.0, 12.0, -7.0, -6.0]
    assert [record.get("reward_failure") for record in records] == [None, "the sandbox gave no verdict: r"] * 2


class Seen(PolicyCallback):
    def __init__(self) -> None:
        self.rewards: list[Tensor] = []
        self.metrics: list[float] = []

    def on_rollout(self, trainer: Trainer, module: Any, rollout: Any) -> Any:
        self.rewards.append(rollout.rewards)
        return rollout

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.metrics.append(float(trainer.callback_metrics["rollout/reward_failures"]))


def _policy(model: str, reward: Reward) -> CodePolicy:
    return CodePolicy(model, reward, num_samples=4, max_new_tokens=6, max_iterations=2)


def _fit(module: CodePolicy, tasks: Tasks) -> Seen:
    seen = Seen()
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[RolloutMetrics(), seen, PPOUpdate()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(tasks[:8], batch_size=4, collate_fn=list))  # type: ignore[arg-type]
    return seen


def test_failures_are_counted_and_kill_nothing(tiny_model: str, tasks: Tasks) -> None:
    calls = [0]

    def function(prompts: list[str], completions: list[str], task_id: list[str]) -> list[float | None]:
        calls[0] += 1
        if calls[0] == 1:
            return [None, math.nan, *(float(len(text)) for text in completions[2:])]
        return [float(len(text)) for text in completions]

    module = _policy(tiny_model, PythonReward(function, failure_value=-3.0))
    with pytest.warns(UserWarning, match="2 of 16 completions got no reward from .*function"):
        seen = _fit(module, tasks)
    assert seen.rewards[0][:2].tolist() == [-3.0, -3.0]
    assert all(torch.isfinite(rewards).all() for rewards in seen.rewards)
    assert seen.metrics == [2.0, 0.0]
    assert module.iteration == 2
    assert all(torch.isfinite(parameter).all() for parameter in module.policy.parameters())


def test_a_broken_reward_model_s_nan_does_not_reach_the_weights(
    tiny_model: str, reward_folder: Path, tasks: Tasks
) -> None:
    class Partly(LearnedReward):
        def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
            scores = super().forward(records, completions)
            return torch.where(torch.arange(len(scores)) % 4 == 0, math.nan, scores)

    module = _policy(tiny_model, Partly(str(reward_folder)))
    with pytest.warns(UserWarning, match="4 of 16 completions got no finite reward from Partly"):
        seen = _fit(module, tasks)
    assert seen.metrics == [4.0, 4.0]
    assert all(torch.isfinite(parameter).all() for parameter in module.policy.parameters())


def test_evaluation_has_them_too(tiny_model: str, tasks: Tasks) -> None:
    module = _policy(tiny_model, WeightedReward([PythonReward(lengths)], [0.5]))
    try:
        rows = module.predict_step(tasks[:2], 0)
    finally:
        module.teardown("test")
    assert [row["reward"] for row in rows] == [len(row["completion"]) / 2 for row in rows]
    module = _policy(tiny_model, Given([math.nan, 1.0, 2.0, 3.0]))
    try:
        with pytest.warns(UserWarning, match="1 of 4 completions got no finite reward from Given"):
            rows = module.predict_step(tasks[:1], 0)
    finally:
        module.teardown("test")
    assert [row["reward"] for row in rows] == [2.0, 1.0, 2.0, 3.0]


def test_by_config_only_with_the_columns_of_the_task_file(tiny_model: str, quickstart: Path, tmp_path: Path) -> None:
    """User columns of a JSONL of tasks reach the function, and a nested config prints and reads itself again."""
    rows = [json.loads(line) for line in (quickstart / "tasks" / "train.jsonl").read_text().splitlines()[:8]]
    lines = [json.dumps({**row, "hardness": number}) for number, row in enumerate(rows)]
    (tmp_path / "tasks.jsonl").write_text("".join(line + "\n" for line in lines))
    (tmp_path / "mine.py").write_text(
        "def hard(prompts, completions, hardness):\n"
        "    assert all(isinstance(value, int) for value in hardness)\n"
        "    return [10.0 + value for value in hardness]\n"
    )
    part = {"class_path": "PythonReward", "init_args": {"function": f"{tmp_path}/mine.py:hard", "failure_value": -1.0}}
    reward = {
        "class_path": "WeightedReward",
        "init_args": {"rewards": [part, {"class_path": "UnitTests"}], "weights": [2.0, 0.0]},
    }
    (tmp_path / "reward.yaml").write_text(json.dumps({"model": {"init_args": {"reward": reward}}}))
    flags = [
        f"--config={ROOT}/configs/quickstart/pf_ppo.yaml",
        f"--config={tmp_path}/reward.yaml",
        f"--model.model_name_or_path={tiny_model}",
        f"--data.train={tmp_path}/tasks.jsonl",
        "--data.batch_size=4",
        "--model.max_new_tokens=4",
        "--model.max_iterations=1",
        "--update.minibatch_size=4",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.limit_val_batches=0",
        "--data.validation=null",
        f"--run_dir={tmp_path / 'run'}",
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*got no reward")
        cli = run(["fit", *flags])
    assert isinstance(cli.model.reward_function, WeightedReward)
    assert 20.0 <= float(cli.trainer.callback_metrics["rollout/reward_mean"]) <= 34.0
    printed = (tmp_path / "run" / "config.yaml").read_text()
    assert f"{tmp_path}/mine.py:hard" in printed


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model.reward=PythonReward", "--model.reward.function=nowhere.py:f"], "no file nowhere.py"),
        (["--model.reward=PythonReward", "--model.reward.functoin=math.sqrt"], "functoin"),
        (["--model.reward=PythonReward"], "function"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    flags: list[str], says: str, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [f"--config={ROOT}/configs/quickstart/pf_ppo.yaml", f"--model.model_name_or_path={tiny_model}"]
    with pytest.raises((FileNotFoundError, SystemExit)) as error:
        run(["fit", *config, *flags, f"--run_dir={tmp_path / 'run'}"])
    text = f"{error.value}{capsys.readouterr().err}"
    assert says in text
    assert "Traceback" not in text
    assert len(text.splitlines()) < 12
