"""Sampled tokens a CPU second: this package's loop against `generate` of transformers, same model, prompts and ends.

    python benchmarks/generation.py [--model FOLDER] [--repeats 3] [--epochs 3]

The quickstart's model, taught on its demonstrations first so that it ends its answers, or any folder with --model; the
quickstart's validation prompts, 64 new tokens at most, on one thread. Rows: 64 prompts greedily, whose tokens have to
be the same on both sides; 64 prompts at temperature 1; and five samples of each of 64 prompts. A token counts up to the
end token; both stop there. Every measurement has a process of its own and they take turns; the best of the repeats
counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table
from workloads import apart, read_rows, write_quickstart

PROMPTS, NEW_TOKENS, BATCHES = 64, 64, 4


class Kind(NamedTuple):
    """How is sampled, and the ratio aimed at, if any."""

    temperature: float
    samples: int
    aim: float | None = None


KINDS = {
    "greedy": Kind(0.0, 1, 2.0),
    "temperature 1": Kind(1.0, 1, 2.0),
    "temperature 1, five a prompt": Kind(1.0, 5),
}
SIDES = ("transformers", "tamis")


def measure(side: str, kind: Kind, model_folder: str, tasks: Path) -> dict[str, Any]:
    """Tokens a CPU second over some batches, after one that does not count."""
    import torch

    from tamis.modules.language_model import load_causal_lm, load_tokenizer, pad, tokenize

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tokenizer = load_causal_lm(model_folder).eval(), load_tokenizer(model_folder)
    rows = tokenize(tokenizer, [row["prompt"] for row in read_rows(tasks)])
    function = {"transformers": by_transformers, "tamis": by_tamis}[side]
    tokens, started, seen = 0, 0.0, hashlib.blake2b()
    for number in range(BATCHES + 1):
        if number == 1:
            tokens, started = 0, time.process_time()
        prompts = pad(rows[number * PROMPTS : (number + 1) * PROMPTS], tokenizer.pad_token_id, "left")
        for response in function(model, tokenizer, prompts, kind):
            tokens += len(response)
            seen.update(json.dumps(response).encode())
    return {"rate": tokens / (time.process_time() - started), "tokens": tokens, "digest": seen.hexdigest()}


def by_transformers(model: Any, tokenizer: Any, prompts: Any, kind: Kind) -> list[list[int]]:  # noqa: ANN401
    """The general-purpose `generate`."""
    import torch

    drawn = {"do_sample": True, "temperature": kind.temperature, "top_k": 0, "top_p": 1.0}
    with torch.no_grad():
        output = model.generate(
            input_ids=prompts.ids,
            attention_mask=prompts.mask.long(),
            max_new_tokens=NEW_TOKENS,
            num_return_sequences=kind.samples,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **(drawn if kind.temperature else {"do_sample": False}),
        )
    return [until_end(row, tokenizer.eos_token_id) for row in output[:, prompts.ids.shape[1] :].tolist()]


def by_tamis(model: Any, tokenizer: Any, prompts: Any, kind: Kind) -> list[list[int]]:  # noqa: ANN401
    """This package's loop."""
    from tamis.generation import sample

    samples = sample(
        model,
        prompts.ids,
        prompts.mask,
        max_new_tokens=NEW_TOKENS,
        eos_token_ids=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        num_samples=kind.samples,
        temperature=kind.temperature,
    )
    return [until_end(row, tokenizer.eos_token_id) for row in samples.tokens.tolist()]


def until_end(row: Sequence[int], end: int) -> list[int]:
    """The response with its end token, if it has one."""
    return list(row[: row.index(end) + 1] if end in row else row)


def report(best: dict[tuple[str, str], dict[str, Any]], console: Console) -> bool:
    """Prints rates and ratios; False if greedy tokens differ."""
    table = Table(
        "64 prompts", "generate, tokens / CPU s", "tamis, tokens / CPU s", "ratio", "aim", "tokens a response"
    )
    for name, kind in KINDS.items():
        theirs, ours = (best[side, name] for side in SIDES)
        responses = BATCHES * PROMPTS * kind.samples
        table.add_row(
            name,
            f"{theirs['rate']:.0f}",
            f"{ours['rate']:.0f}",
            f"{ours['rate'] / theirs['rate']:.2f}x",
            "" if kind.aim is None else f"{kind.aim:g}x",
            f"{theirs['tokens'] / responses:.1f} / {ours['tokens'] / responses:.1f}",
        )
    console.print(table)
    same = len({best[side, "greedy"]["digest"] for side in SIDES}) == 1
    console.print(f"greedy tokens of {(BATCHES + 1) * PROMPTS} prompts are {'the same' if same else 'DIFFERENT'}")
    return same


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model; default: the quickstart's, taught on the spot")
    parser.add_argument("--epochs", type=int, default=3, help="epochs for which the quickstart's model is taught")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind, of which the best counts")
    parser.add_argument(
        "--one", nargs=4, metavar=("SIDE", "KIND", "MODEL", "TASKS"), help="measure one in this process, print JSON"
    )
    options = parser.parse_args()
    if options.one:
        side, kind, model, tasks = options.one
        print(json.dumps(measure(side, KINDS[kind], model, Path(tasks))))
        return
    best: dict[tuple[str, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taught = write_quickstart(folder, options.epochs)
        tasks, model = str(folder / "tasks" / "validation.jsonl"), options.model or str(taught)
        jobs = [(side, kind) for _ in range(options.repeats) for kind in KINDS for side in SIDES]
        for job in track(jobs, "measuring", console=Console(stderr=True)):
            result = apart(sys.executable, Path(__file__), "--one", *job, model, tasks)
            if job not in best or result["rate"] > best[job]["rate"]:
                best[job] = result
    sys.exit(not report(best, Console(width=110)))


if __name__ == "__main__":
    main()
