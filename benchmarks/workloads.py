"""The models and prompts that `ppo.py`, `trl_ppo.py` and `generation.py` measure on, written into a folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROMPTS, PROMPT_TOKENS, NEW_TOKENS, MICROBATCH = 64, 32, 48, 16


def write_small(folder: Path, iterations: int) -> None:
    """A 2-layer 64-wide Qwen2 of 512 tokens, a reward model of the same shape, and prompts of up to 32 tokens."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

    from tamis.modules.scalar_head import ScalarHeadModel

    tokenizer = word_tokenizer(512)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    reward = ScalarHeadModel(Qwen2Model(config))
    torch.nn.init.normal_(reward.head.weight)
    reward.save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    draw = random.Random(0)
    prompts = [draw.sample(range(2, 512), draw.randint(8, PROMPT_TOKENS)) for _ in range(PROMPTS * iterations)]
    rows = [
        {"task_id": str(number), "prompt": tokenizer.decode(ids), "input_ids": ids}
        for number, ids in enumerate(prompts)
    ]
    write_rows(folder / "prompts.jsonl", rows)


def word_tokenizer(size: int) -> Any:  # noqa: ANN401 - transformers has no types here
    """Every token is a word that cannot be cut, so that text made of random tokens has the same tokens again.

    Of Qwen2's own class, because that is what transformers loads beside a Qwen2, whatever was saved there.
    """
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(vocab={"<|endoftext|>": 0, "<|pad|>": 1}, merges=[], pad_token="<|pad|>")
    tokenizer.add_tokens([f"<{number}>" for number in range(2, size)])
    return tokenizer


def write_quickstart(folder: Path, epochs: int) -> Path:
    """The quickstart's tasks and model, taught for some epochs so that it ends its answers; returns its folder."""
    from lightning.pytorch import Trainer

    from tamis.datamodules import Instructions
    from tamis.modules import SupervisedFineTuning
    from tamis.quickstart import main

    main([str(folder), "--train", "2000", "--validation", "512", "--test", "1"])
    data = Instructions(str(folder / "tasks" / "demonstrations.jsonl"))
    module = SupervisedFineTuning(str(folder / "untrained"), optimizer=_adamw)
    trainer = Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    module.export(folder / "model")
    return folder / "model"


def _adamw(parameters: Any) -> Any:  # noqa: ANN401 - torch's own union
    import torch

    return torch.optim.AdamW(parameters, lr=3e-3)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def apart(python: str, script: Path, *arguments: str) -> dict[str, Any]:
    """Runs a script in a process of its own, on one thread, and reads the JSON of its last line."""
    command = [python, str(script), *arguments]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    environment = os.environ | quiet | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{run.stderr}")
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The smallest of the repeats, and the largest beside it."""
    return f"{min(values):.{digits}f} (to {max(values):.{digits}f})"
