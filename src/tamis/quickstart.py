"""``python -m tamis.quickstart FOLDER``: everything the code program's quickstart starts from.

Writes Python tasks with tests, demonstrations with plausible bugs, a byte-level BPE tokenizer trained on them, and a
small untrained Llama, all in the formats in which real ones come: JSONL files and a ``from_pretrained`` folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .tasks import write_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_TOKEN, PAD_TOKEN = "<|end|>", "<|pad|>"


def write_tiny_model(texts: Sequence[str], folder: Path, vocab_size: int = 640, seed: int = 0) -> int:
    """Train a tokenizer on ``texts`` and save it with an untrained 4-layer Llama; returns the number of parameters.

    Raises:
        FileExistsError: if the folder already holds a model.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} already holds a model; choose another folder, or remove it")
    tokenizer = train_tokenizer(texts, vocab_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits; merges may cross spaces, which shortens such regular text by a third."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN, PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_TOKEN, pad_token=PAD_TOKEN)


def main(args: Sequence[str] | None = None) -> None:
    """Write tasks and model, and say what was written."""
    parser = argparse.ArgumentParser(prog="python -m tamis.quickstart", description=__doc__)
    parser.add_argument("folder", type=Path, help="where tasks/ and untrained/ go, for instance runs/quickstart")
    parser.add_argument("--train", type=int, default=16_000, help="training tasks (%(default)s)")
    parser.add_argument("--validation", type=int, default=500, help="validation tasks (%(default)s)")
    parser.add_argument("--test", type=int, default=1_000, help="test tasks (%(default)s)")
    parser.add_argument("--demonstrations", type=int, default=2_000, help="demonstrations (%(default)s)")
    parser.add_argument("--bug_rate", type=float, default=0.7, help="bugs in demonstrations, 0 to 1 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of tasks, bugs and weights (%(default)s)")
    options = parser.parse_args(args)
    tasks = options.folder / "tasks"
    summary = write_tasks(
        tasks,
        train=options.train,
        validation=options.validation,
        test=options.test,
        demonstrations=options.demonstrations,
        bug_rate=options.bug_rate,
        seed=options.seed,
    )
    print(f"{tasks}: {summary}")
    parameters = write_tiny_model(list(_texts(tasks)), options.folder / "untrained", seed=options.seed)
    print(f"{options.folder / 'untrained'}: an untrained Llama of {parameters:,} parameters and its tokenizer")


def _texts(tasks: Path) -> Iterator[str]:
    """Prompts and completions apart, so that no token crosses from one into the other."""
    for line in (tasks / "demonstrations.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield from (row["prompt"], row["completion"])


if __name__ == "__main__":
    main()
