"""One measurement of the PPO of TRL 1.12.0 for `ppo.py`, which runs this with the interpreter that TRL is installed in.

Everything is set as in the other side of the comparison: fp32 without gradient checkpointing, temperature 1, no network
shared, a value model and a reward model of the policy's shape. TRL's config asks for bf16 and checkpointing by default,
which would be slower here. Prints the CPU seconds of each iteration as JSON.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer
from workloads import MICROBATCH, NEW_TOKENS, PROMPTS, read_rows


class Clock(TrainerCallback):
    """CPU seconds at the end of each iteration."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - as its caller has it
        """One iteration is over."""
        self.ends.append(time.process_time())


def main(folder: Path, iterations: int, collect: bool) -> None:
    """Trains for some iterations."""
    if not collect:
        gc.collect = lambda generation=2: 0
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        make_trainer(folder, iterations, output, clock).train()
    cpu_s = [end - start for start, end in itertools.pairwise(clock.ends)]
    print(json.dumps({"cpu_s": cpu_s, "tokens": [PROMPTS * NEW_TOKENS] * len(cpu_s)}))


def make_trainer(folder: Path, iterations: int, output: str, clock: Clock) -> Any:  # noqa: ANN401 - no types here
    """One optimiser step an iteration, its gradient gathered in micro-batches."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    rows = read_rows(folder / "prompts.jsonl")[: PROMPTS * iterations]
    args = PPOConfig(
        output_dir=output,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        learning_rate=1e-6,
        per_device_train_batch_size=MICROBATCH,
        gradient_accumulation_steps=PROMPTS // MICROBATCH,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=PROMPTS * iterations,
        num_sample_generations=0,
        response_length=NEW_TOKENS,
        temperature=1.0,
        kl_coef=0.01,
        seed=0,
    )
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy") for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1) for _ in range(2)
    )
    dataset = Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])
    return PPOTrainer(args, tokenizer, policy, reference, reward, dataset, value, callbacks=[clock])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "collect")
