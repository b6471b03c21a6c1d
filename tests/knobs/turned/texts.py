"""Options of the stages around a code policy, of rewards, and of what writes about both."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from tamis.callbacks import PreferenceWriter, RewardReliability
from tamis.callbacks.probe import Probed
from tamis.execution import Limits
from tamis.modules import (
    LearnedReward,
    PreferenceOptimization,
    PythonReward,
    RewardModel,
    SupervisedFineTuning,
    UnitTests,
    WeightedReward,
)

from .learning import QUIET
from .programs import LONG, PROBED, WATCH, sandbox_of
from .turning import Knobs, Of, Options, Turn
from .words import Material, counted, fit, layer_of, listing, trained

_SGD: Any = partial(torch.optim.SGD, lr=1.0)
#: Of every stage that trains a language model.
_TRAINING = {
    "prompt_format": Turn("chat", "weights"),
    "max_length": Turn(8, "weights"),
    "optimizer": Turn(_SGD, "weights"),
    "schedule": Turn("constant", "weights"),
    "warmup_ratio": Turn(0.9, "weights"),
    "model_name_or_path": Turn(Of("other"), "weights"),
}
_MODEL = {"model_name_or_path": Of("model")}


def _weights(kind: type[Any], material: Material, folder: Path, options: Options) -> Any:
    module = kind(**options)
    fit(folder, module, material.pairs)
    return trained(module)


def _passes(kind: type[Any], material: Material, folder: Path, options: Options) -> Any:
    """How often each layer runs in a step forwards and backwards."""
    module: LightningModule = kind(**options)
    with counted({"layer": layer_of(module)}) as calls:
        fit(folder, module, material.pairs[:2])
    return len(calls)


def _exported(kind: type[Any], material: Material, folder: Path, options: Options) -> Any:
    kind(**options).export(folder)
    return list(listing(folder))


def _stage(kind: type[Any], **turns: Turn) -> Knobs:
    parts = {"weights": _weights, "passes": _passes, "files": _exported}
    return Knobs({name: partial(part, kind) for name, part in parts.items()}, _TRAINING | turns, _MODEL)


def _say(prompts: list[str], completions: list[str]) -> list[float | None]:
    return [None if text == "?" else float(len(text)) for text in completions]


def _shout(prompts: list[str], completions: list[str]) -> list[float | None]:
    return [-1.0 for _ in completions]


def _scores(kind: type[Any], material: Material, folder: Path, options: Options) -> Any:
    reward = kind(**options)
    texts = [LONG, "    return 3\n", "?"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reward([dict(material.records[0]) for _ in texts], texts)
    reward.close()
    return found


def _batches(material: Material, folder: Path, options: Options) -> Any:
    reward = LearnedReward(**options)
    with counted({"scorer": reward.reward_model.model}) as calls:
        reward(material.records[:1] * 4, ["a", "bb", "ccc", "dddd"])
    return len(calls), {name: parameter.dtype for name, parameter in reward.reward_model.named_parameters()}


def _moved(material: Material, folder: Path, options: Options) -> Any:
    """What a trainer that moves the reward to a device would move."""
    return [name for name, _ in LearnedReward(**options).named_parameters()]


def _sandbox(material: Material, folder: Path, options: Options) -> Any:
    reward = UnitTests(**options)
    found = sandbox_of(reward.verifier)
    reward.close()
    return found


_SAMPLES: list[dict[str, Any]] = [
    {"task_id": f"t/{n // 4}", "prompt": f"p{n // 4}", "completion": text, "status": "passed" if good else "failed"}
    | {"passed": good, "reward": reward, "truncated": False}
    for n, (text, good, reward) in enumerate(
        [("right", True, 0.1), ("rite", True, 0.9), ("wrong, and long", False, 0.5), ("no", False, 0.2)] * 6
    )
]


def _pairs(material: Material, folder: Path, options: Options) -> Any:
    if "folder" in options:
        options["folder"] = str(folder / options["folder"])
    writer, trainer = PreferenceWriter(**options), Trainer(default_root_dir=folder, **QUIET)
    writer.write_on_epoch_end(trainer, LightningModule(), [_SAMPLES], [])
    return listing(folder)


def _reliability(material: Material, folder: Path, options: Options) -> Any:
    """The report on 8 tasks of 4 samples, whose rewards are as good as nothing."""
    if "folder" in options:
        options["folder"] = str(folder / options["folder"])
    watcher, trainer = RewardReliability(**options), Trainer(default_root_dir=folder, **QUIET)
    draw = torch.Generator().manual_seed(0)
    rewards, passed = torch.rand(32, generator=draw).tolist(), (torch.rand(32, generator=draw) < 0.5).tolist()
    rows = [
        {"task_id": f"t/{n // 4}", "prompt": "p", "sample": n % 4, "status": "passed", "passed": good, "reward": reward}
        for n, (reward, good) in enumerate(zip(rewards, passed, strict=True))
    ]
    watcher.on_test_batch_end(trainer, LightningModule(), {"samples": rows}, None, 0)
    watcher.on_test_end(trainer, LightningModule())
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("*.json")}


def _parted(material: Material, folder: Path, options: Options) -> Any:
    """What is warned of when reward and pass rate part by half a standard error or two."""
    watcher, trainer = RewardReliability(probe=4, **options), Trainer(default_root_dir=folder, **QUIET)
    policy: Any = SupervisedFineTuning(material.model)
    policy.iteration = 1
    rewards = torch.tensor([[0.0, 0.3], [0.2, 0.1], [0.4, 0.0], [0.1, 0.5]])
    passed = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for number, now in enumerate((rewards, rewards.flip(0) + 0.1)):
            found = Probed(number, ["a", "b", "c", "d"], now, torch.tensor(passed[number]), 3.0, 0.5)
            watcher._follow(trainer, policy, found)
    return [str(one.message) for one in seen if "parted" in str(one.message)]


_RELIABILITY = Knobs(
    {"report": _reliability, "parted": _parted, **PROBED},
    {
        "bins": Turn(3, "report"),
        "binning": Turn("width", "report"),
        "bootstrap": Turn(20, "report"),
        "folder": Turn("elsewhere", "report"),
        "seed": Turn(1, "report"),
        "keep": Turn(3, "report"),
        "powers": Turn((4.0,), "report"),
        "high": Turn(0.8, "report"),
        "low": Turn(0.2, "report"),
        "divergence_threshold": Turn(0.1, "parted"),
        **WATCH,
    },
    {"bins": 4, "bootstrap": 10, "high": 0.5},
)


TEXTS: dict[type, Knobs] = {
    SupervisedFineTuning: _stage(
        SupervisedFineTuning,
        lora_rank=Turn(2, "weights"),
        merge_adapter=Turn(False, "files", {"lora_rank": 2}),
    ),
    RewardModel: _stage(
        RewardModel,
        margin=Turn(2.0, "weights"),
        centring=Turn(0.5, "weights"),
        dtype=Turn("bfloat16", "weights"),
    ),
    PreferenceOptimization: _stage(
        PreferenceOptimization,
        loss=Turn("ipo", "weights"),
        beta=Turn(0.5, "weights"),
        label_smoothing=Turn(0.3, "weights"),
        lora_rank=Turn(2, "weights"),
        gradient_checkpointing=Turn(True, "passes"),
    ),
    LearnedReward: Knobs(
        {"scores": partial(_scores, LearnedReward), "batches": _batches, "moved": _moved},
        {
            "model_name_or_path": Turn(Of("harsh"), "scores"),
            "prompt_format": Turn("chat", "scores", refused="was trained with plain"),
            "normalise": Turn(False, "scores"),
            "batch_size": Turn(2, "batches"),
            "dtype": Turn("bfloat16", "batches"),
            "offload": Turn(True, "moved"),
        },
        {"model_name_or_path": Of("scorer")},
    ),
    UnitTests: Knobs(
        {"scores": partial(_scores, UnitTests), "sandbox": _sandbox},
        {
            "passed": Turn(2.0, "scores"),
            "failed": Turn(-1.0, "scores"),
            "workers": Turn(2, "sandbox"),
            "isolation": Turn("auto", "sandbox"),
            "limits": Turn(Limits(source_kb=1), "scores"),
        },
        {"workers": 1, "isolation": "process"},
    ),
    PythonReward: Knobs(
        {"scores": partial(_scores, PythonReward)},
        {"function": Turn(_shout, "scores"), "failure_value": Turn(-3.0, "scores")},
        {"function": _say},
    ),
    WeightedReward: Knobs(
        {"scores": partial(_scores, WeightedReward)},
        {"rewards": Turn([PythonReward(_shout)], "scores"), "weights": Turn([0.5], "scores")},
        {"rewards": [PythonReward(_say)], "weights": [1.0]},
    ),
    RewardReliability: _RELIABILITY,
    PreferenceWriter: Knobs(
        {"files": _pairs},
        {
            "folder": Turn("elsewhere", "files"),
            "pairs": Turn("max_edit_distance", "files"),
            "label": Turn("reward", "files"),
            "max_pairs_per_prompt": Turn(1, "files"),
            "seed": Turn(1, "files", {"pairs": "random"}),
        },
    ),
}
