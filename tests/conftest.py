"""Small real things that tests share: tasks, an untrained language model, a run of the command line."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from .ranks import Ranks

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A CUDA build of torch on a small machine: one thread a process is the fastest for tiny models.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``python -m tamis.quickstart`` writes, in small: tasks/ and untrained/."""
    from tamis.quickstart import main

    folder = tmp_path_factory.mktemp("quickstart")
    sizes = ["--train", "200", "--validation", "24", "--test", "24", "--demonstrations", "64"]
    main([str(folder), *sizes])
    return folder


@pytest.fixture(scope="session")
def tiny_model(quickstart: Path) -> str:
    """A folder with a tokenizer and an untrained 0.9 M Llama."""
    return str(quickstart / "untrained")


@pytest.fixture(scope="session")
def tasks(quickstart: Path) -> list[dict[str, object]]:
    """Training tasks as records."""
    from tamis.datamodules.code_tasks import task_record
    from tamis.datamodules.jsonl import read_jsonl

    return [task_record(row) for row in read_jsonl(str(quickstart / "tasks" / "train.jsonl"))]


@pytest.fixture(scope="session")
def pairs(quickstart: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preference pairs: the reference solution above a wrong one."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [json.loads(line) for line in (quickstart / "tasks" / "train.jsonl").read_text().splitlines()]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["canonical_solution"], "rejected": "    return None\n"} for row in rows
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.fixture(scope="session")
def reward_folder(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model's folder as an earlier stage leaves it."""
    from tamis.modules import RewardModel

    folder = tmp_path_factory.mktemp("reward")
    model = RewardModel(tiny_model)
    torch.nn.init.normal_(model.model.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    model.export(folder)
    return folder


@pytest.fixture(scope="session")
def workspace(
    quickstart: Path, reward_folder: Path, pairs: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The files that configs and documents name, where they name them, made small."""
    from tamis.modules.language_model import load_tokenizer

    root = tmp_path_factory.mktemp("workspace")
    tokenizer = load_tokenizer(str(quickstart / "untrained"))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for name in (
        "quickstart/untrained",
        "quickstart/sft/model",
        "quickstart/pf_ppo/model",
        "mbpp/sft/model",
        "mbpp/pf_ppo/model",
        "smollm2/pf_ppo/model",
    ):
        shutil.copytree(quickstart / "untrained", root / "runs" / name)
        tokenizer.save_pretrained(root / "runs" / name)
    shutil.copytree(reward_folder, root / "runs" / "quickstart" / "reward_model" / "model")
    shutil.copytree(quickstart / "tasks", root / "runs" / "quickstart" / "tasks")
    tasks = root / "runs" / "quickstart" / "tasks" / "train.jsonl"
    tasks.write_text(tasks.read_text() * 25)  # as many rows as the configs' ranges reach for
    (root / "runs" / "quickstart" / "preferences").mkdir()
    shutil.copy(pairs, root / "runs" / "quickstart" / "preferences" / "pairs.jsonl")
    task = {"text": "Double x.", "code": "def f(x):\n    return 2 * x", "test_list": ["assert f(1) == 2"]}
    rows: list[dict[str, object]] = [{"task_id": number, "test_setup_code": "", **task} for number in range(1, 975)]
    rewards = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text()
    for language, name in (("python", "my_rewards.py"), ("yaml", "my_reward.yaml")):  # as the page says to save them
        (block,) = re.findall(rf"^```{language}\n(.*?)^```", rewards, re.MULTILINE | re.DOTALL)
        (root / name).write_text(block)
    (root / "data").mkdir()
    _write_rows(root / "data" / "mbpp.jsonl", rows)
    head = 'def f(x):\n    """Double x."""\n'
    task = {"prompt": head, "entry_point": "f", "test": "def check(f):\n    assert f(1) == 2\n"}
    _write_rows(root / "data" / "humaneval.jsonl", [{"task_id": f"HumanEval/{number}", **task} for number in range(4)])
    stub = "class Solution:\n    def f(self, x: int) -> int:\n        "
    task = {"prompt": f"Double x.\n{stub}", "prompt_sft": f"Double x.\n```python\n{stub}\n```"}
    task["test"] = "my_solution = Solution()\n\ntest_input = {'x': 1}\nassert my_solution.f(**test_input) == 2\n"
    _write_rows(root / "data" / "leetcode.jsonl", [{"task_id": f"contest-{number}", **task} for number in range(4)])
    for name in ("organamnist", "breastmnist", "pneumoniamnist"):
        _write_npz(root / "data" / f"{name}.npz", images=30)
    (root / "data" / "radimagenet").symlink_to(phantoms)
    return root


def _write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Two gloo ranks; ``ranks(function, *arguments)`` runs a test module's function on both."""
    both = Ranks()
    yield both
    both.close()


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    torch.manual_seed(0)


@contextmanager
def _files_of(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def files_of() -> Callable[[int], AbstractContextManager[None]]:
    """``with files_of(bytes)``: this process's files may have this size, and a byte more is an error of the system."""
    return _files_of


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few phantoms of 48 pixels, two a class to train on."""
    from tamis.datamodules import Phantoms

    root = tmp_path_factory.mktemp("phantoms") / "set"
    Phantoms(str(root), 30, 15, 15, phantom_size=48).prepare_data()
    return root


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like MedMNIST's: 12 grey images of 3 classes in each split."""
    path = tmp_path_factory.mktemp("medmnist") / "set.npz"
    _write_npz(path, images=12)
    return path


def _write_npz(path: Path, images: int) -> None:
    import numpy as np

    draw, labels = np.random.default_rng(0), (np.arange(images) % 3).astype(np.uint8).reshape(-1, 1)
    splits = ("train", "val", "test")
    arrays: dict[str, Any] = {f"{split}_labels": labels for split in splits}
    arrays |= {f"{split}_images": draw.integers(0, 255, (images, 28, 28), dtype=np.uint8) for split in splits}
    np.savez(path, **arrays)
