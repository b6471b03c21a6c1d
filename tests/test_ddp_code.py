"""Two processes train the language model that one trains: its completions, the rows that filters keep, its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, PolicyCallback, PPOUpdate, PreferenceUpdate, ReinforceUpdate
from tamis.modules import CodePolicy, PolicyModule, Reward
from tamis.rollout import Rollout

from .ranks import Ranks

PROMPTS, N = 4, 4
Records = list[dict[str, object]]
SGD = partial(torch.optim.SGD, lr=0.3)


class ShareOfLetter(Reward):
    """Share of a completion's characters that are the letter e; turned round, an adversary's reward."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return self.sign * torch.tensor([text.count("e") / max(len(text), 1) for text in completions])


def pf_ppo(processes: int, **options: Any) -> list[Callback]:
    """Of four samples two are kept, and learned from in two passes of two steps."""
    size = PROMPTS * 2 // 2 // processes
    return [Filtration("best_random", keep=2), PPOUpdate(epochs=2, minibatch_size=size, **options)]


def all_rows(processes: int) -> list[Callback]:
    return [
        Filtration("best_worst", keep=2),
        PPOUpdate(critic_rows="all", minibatch_size=PROMPTS * N // 2 // processes),
    ]


#: Options of the module (``sign`` is the reward's), and callbacks.
RUNS: dict[str, tuple[dict[str, Any], Callable[[int], list[Callback]]]] = {
    "pf_ppo": ({}, pf_ppo),
    "adversarial": ({"sign": -1.0}, partial(pf_ppo, microbatch_size=1)),
    "own_trunk": ({"critic": "own_trunk", "gradient_checkpointing": True}, partial(pf_ppo, critic_warmup_iterations=1)),
    "all_rows": ({"critic": "own_trunk"}, all_rows),
    "rloo": ({"critic": "none", "reference": False}, lambda _: [ReinforceUpdate()]),
    "reinforce": ({"critic": "none"}, lambda _: [Filtration("random", keep=3), ReinforceUpdate("running_mean")]),
    "lora": ({"lora_rank": 2}, pf_ppo),
    "dpo": ({"critic": "none"}, lambda _: [Filtration("best_worst"), PreferenceUpdate("dpo")]),
}


class Texts(PolicyCallback):
    """The completions of each prompt, iteration by iteration, as they come by."""

    def __init__(self) -> None:
        self.seen: list[list[list[str]]] = []

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        groups = rollout.groups().tolist()
        self.seen.append([[str(rollout.records[row]["completion"]) for row in rows] for rows in groups])
        return rollout


def train(name: str, model: str, records: Records, processes: int) -> dict[str, Any]:
    """Two iterations; a rank has every other prompt of one order."""
    options, callbacks = RUNS[name]
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_samples": N, "max_new_tokens": 6, "max_iterations": 2, "warmup_ratio": 0.0}
    settings |= {"schedule": "constant", "policy_optimizer": SGD, "critic_optimizer": SGD} | options
    module = CodePolicy(model, ShareOfLetter(settings.pop("sign", 1.0)), **settings)
    start = {key: value.clone() for key, value in module.named_parameters()}
    drawn, kept = Texts(), Texts()
    *filters, update = callbacks(processes)
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=[drawn, *filters, kept, update],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    mine: Any = records[trainer.global_rank :: processes]
    trainer.fit(module, DataLoader(mine, batch_size=PROMPTS // processes, collate_fn=list))
    trained = {key: value.detach() for key, value in module.named_parameters() if value.requires_grad}
    moved = max(float((value - start[key]).abs().max()) for key, value in trained.items())
    return {"drawn": drawn.seen, "kept": kept.seen, "weights": trained, "moved": moved}


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_what_one_process_does(ranks: Ranks, tiny_model: str, tasks: Records, name: str) -> None:
    records = tasks[: 2 * PROMPTS]
    one = train(name, tiny_model, records, 1)
    both = ranks(train, name, tiny_model, records, 2)
    assert one["moved"] > 1e-3
    for texts in ("drawn", "kept"):
        assert len(one[texts]) == 2
        for rank in range(2):
            assert both[rank][texts] == [iteration[rank::2] for iteration in one[texts]], texts
    for key, weight in one["weights"].items():
        assert torch.equal(both[0]["weights"][key], both[1]["weights"][key]), key
        torch.testing.assert_close(both[0]["weights"][key], weight, atol=1e-5, rtol=1e-3, msg=key)
