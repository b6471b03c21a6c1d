"""A language model of a few thousand weights, and what else the text modules are tried on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.datamodules.code_tasks import task_record
from tamis.modules import RewardModel
from tamis.quickstart import train_tokenizer

from .learning import QUIET

HEAD = 'def f(x):\n    """Double x."""\n'
TASK = {"entry_point": "f", "test": "def check(f):\n    assert f(1) == 2\n"}


class Material(NamedTuple):
    """What the parts of the text modules work on.

    Args:
        model: a folder with an untrained Llama and its tokenizer, which has a chat template.
        other: another one, with the same tokenizer.
        scorer: a trained reward model's folder.
        harsh: another one.
        records: tasks with prompts of several lengths.
        pairs: preference pairs.
    """

    model: str
    other: str
    scorer: str
    harsh: str
    records: list[dict[str, Any]]
    pairs: list[dict[str, Any]]


def material(folder: Path) -> Material:
    """Write it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    texts = [HEAD, "    return 2 * x\n", "yes no", "p0123456789"]
    tokenizer: Any = train_tokenizer(texts * 8, vocab_size=300)
    tokenizer.chat_template = "{% for m in messages %}user: {{ m.content }}{% endfor %}"
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    sizes |= {"max_position_embeddings": 128}
    names: dict[str, Any] = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for seed, name in enumerate(("model", "other")):
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **names)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for seed, name in enumerate(("scorer", "harsh")):
        scorer = RewardModel(str(folder / "model"))
        nn.init.normal_(scorer.model.head.weight, generator=torch.Generator().manual_seed(seed))
        scorer.model.reward_mean, scorer.model.reward_std = 0.3, 2.0
        scorer.export(folder / name)
    rows = [
        {"task_id": f"t/{n}", "prompt": HEAD + "    #" + "a" * n + "\n", "_source": str(n), **TASK} for n in range(4)
    ]
    pairs = [
        {"prompt": f"p{n}", "chosen": "zebra " * (1 + n % 3), "rejected": "quagga", "completion": "a heron, a stork"}
        for n in range(8)
    ]
    places = {name: str(folder / name) for name in ("model", "other", "scorer", "harsh")}
    return Material(**places, records=[task_record(row) for row in rows], pairs=pairs)


def write_tasks(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """As a file, which a probe set can be read from."""
    path.write_text("".join(json.dumps(record["task"]) + "\n" for record in records))


def loader(records: Sequence[Any], batch_size: int) -> DataLoader[Any]:
    return DataLoader(list(records), batch_size=batch_size, collate_fn=list)  # type: ignore[arg-type]


def fit(folder: Path, module: LightningModule, records: Sequence[Any], *callbacks: Callback) -> Trainer:
    """An epoch of batches of two."""
    trainer = Trainer(max_epochs=1, callbacks=list(callbacks), default_root_dir=folder, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader(records, 2))
    return trainer


def trained(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that train, and the kind of the others."""
    return {name: p.detach().clone() if p.requires_grad else p.new_empty(0) for name, p in module.named_parameters()}


def listing(folder: Path) -> dict[str, list[str]]:
    """Files, and what stands in those of a known kind."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        lines = path.read_text().splitlines() if path.suffix in (".json", ".jsonl", ".csv") else []
        found[str(path.relative_to(folder))] = lines
    return found


@contextmanager
def counted(layers: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Every forward pass of the layers meanwhile: which, and the shape of the first tensor that it was given."""
    calls: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            every = [
                value
                for given in (*arguments, *named.values())
                for value in (given if isinstance(given, tuple) else [given])
            ]
            calls.append((name, next(tuple(value.shape) for value in every if isinstance(value, Tensor))))

        return hook

    hooks = [layer.register_forward_pre_hook(note(name), with_kwargs=True) for name, layer in layers.items()]
    yield calls
    for hook in hooks:
        hook.remove()


def layer_of(module: nn.Module) -> nn.Module:
    """Inside the first layer of its first transformer: what is computed again under gradient checkpointing."""
    part: nn.Module = next(part for name, part in module.named_modules() if name.endswith("layers.0.mlp"))
    return part
