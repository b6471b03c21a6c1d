"""Options of the callbacks that a policy learns by, seen in a policy of two linear layers that writes letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import (
    FaultGuard,
    Filtration,
    ImitationUpdate,
    PolicyCallback,
    PPOUpdate,
    PreferenceUpdate,
    ReinforceUpdate,
    RolloutTable,
    RunCheckpoints,
)
from tamis.modules import ActionEvaluation, PolicyModule
from tamis.rollout import Rollout

from .turning import Knobs, Options, Turn

PROMPTS, N, STEPS, LETTERS, WIDTH = 4, 4, 5, 6, 3
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Letters(PolicyModule):
    """Its letters, rewards and lengths are drawn once, so that runs differ by the options alone."""

    num_samples = N

    def __init__(self, max_iterations: int = 4, critic: bool = True) -> None:
        super().__init__(max_iterations)
        draw = torch.Generator().manual_seed(0)
        self.policy, self.critic = nn.Linear(WIDTH, LETTERS), nn.Linear(WIDTH, 1)
        self.start = nn.Linear(WIDTH, LETTERS).requires_grad_(False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=draw)
        rows = PROMPTS * N
        lengths = torch.randint(1, STEPS + 1, (rows,), generator=draw)
        self.with_critic, self.passes = critic, list[int]()
        self.drawn = Rollout(
            group_ids=torch.arange(rows) // N,
            actions=torch.randint(LETTERS, (rows, STEPS), generator=draw),
            response_mask=torch.arange(STEPS) < lengths.unsqueeze(1),
            rewards=torch.randn(rows, generator=draw),
            truncated=lengths == STEPS,
            observations={"features": torch.randn(rows, STEPS, WIDTH, generator=draw)},
            records=[{"task_id": str(row // N), "prompt": "p", "completion": f"c{row}"} for row in range(rows)],
        )

    def networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"policy": self.policy}
        return networks | ({"critic": self.critic} if self.with_critic else {})

    def act(self, batch: Tensor) -> Rollout:
        return self.drawn.select((batch.unsqueeze(1) * N + torch.arange(N)).flatten())

    def reward(self, rollout: Rollout) -> Rollout:
        return rollout

    @torch.no_grad()
    def complete(self, rollout: Rollout) -> Rollout:
        log_probs, _, values = self.evaluate_actions(rollout)
        self.passes.pop()  # those of the update are looked at
        return rollout.replace(log_probs=log_probs, values=values, ref_log_probs=_chosen(self.start, rollout)[0])

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        self.passes.append(len(rollout))
        values = self.critic(rollout.observations["features"]).squeeze(-1) if self.with_critic else None
        return ActionEvaluation(*_chosen(self.policy, rollout), values)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(network.parameters(), lr=0.5) for network in self.networks().values()]


def _chosen(policy: nn.Module, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Log-probability of each letter drawn, and the entropy that it was drawn from."""
    every = policy(rollout.observations["features"]).log_softmax(-1)
    return every.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1), -(every.exp() * every).sum(-1)


class Kept(PolicyCallback):
    """Which rows pass a filter."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        self.rows.append([record["completion"] for record in rollout.records])
        return rollout


def learn(
    folder: Path, *callbacks: Callback, critic: bool = True, faulty: bool = False, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Four iterations of two prompts each, ``faulty`` ones with rewards that are no numbers; from a checkpoint on."""
    module = Letters(critic=critic)
    if faulty:
        module.drawn.rewards = torch.full((PROMPTS * N,), torch.nan)
    options = QUIET | {"enable_checkpointing": any(isinstance(callback, RunCheckpoints) for callback in callbacks)}
    trainer = Trainer(max_epochs=-1, callbacks=list(callbacks), default_root_dir=folder, **options)
    prompts: Any = torch.arange(PROMPTS)
    trainer.fit(module, DataLoader(prompts, batch_size=2), ckpt_path=checkpoint, weights_only=True)
    return {"weights": {n: p.detach() for n, p in module.named_parameters()}, "passes": module.passes}


def _ppo(material: Any, folder: Path, options: Options) -> Any:
    return learn(folder, Filtration("best_worst"), PPOUpdate(**options))


def _reinforce(material: Any, folder: Path, options: Options) -> Any:
    return learn(folder, ReinforceUpdate(**options), critic=False)


def _imitate(material: Any, folder: Path, options: Options) -> Any:
    return learn(folder, Filtration("best_of_n", keep=1), ImitationUpdate(**options), critic=False)


def _prefer(material: Any, folder: Path, options: Options) -> Any:
    return learn(folder, Filtration("best_worst"), PreferenceUpdate(**options), critic=False)


def _filter(material: Any, folder: Path, options: Options) -> Any:
    kept = Kept()
    learn(folder, Filtration(**options), kept, ReinforceUpdate("none"), critic=False)
    return kept.rows


def _table(material: Any, folder: Path, options: Options) -> Any:
    if "path" in options:
        options["path"] = str(folder / options["path"])
    learn(folder, RolloutTable(**options), ReinforceUpdate("none"), critic=False)
    lines = {file.name: file.read_text().splitlines() for file in folder.iterdir()}
    return {name: [(json.loads(text)["iteration"], len(text)) for text in rows] for name, rows in lines.items()}


def _guarded(material: Any, folder: Path, options: Options) -> Any:
    return learn(folder, FaultGuard(**options), ReinforceUpdate("none"), critic=False, faulty=True)


def _checkpoints(material: Any, folder: Path, options: Options) -> Any:
    if "folder" in options:
        options["folder"] = str(folder / options["folder"])
    learn(folder, RunCheckpoints(**options), ReinforceUpdate("none"), critic=False)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ckpt"))


def _resumed(material: Any, folder: Path, options: Options) -> Any:
    """From a checkpoint of two processes."""
    learn(folder, RunCheckpoints(every_n_iterations=2, keep=None), ReinforceUpdate("none"), critic=False)
    path = folder / "checkpoints" / "iteration=00000002.ckpt"
    content = torch.load(path, weights_only=True)
    content["tamis"]["world_size"] = 2
    torch.save(content, path)
    update = ReinforceUpdate("none")
    return learn(folder, RunCheckpoints(**options), update, critic=False, checkpoint=path)["passes"]


_SIZES = {
    "minibatch_size": Turn(2, "run/passes"),
    "microbatch_size": Turn(2, "run/passes"),
    "seed": Turn(1, "run/weights", {"minibatch_size": 2}),
}

LEARNING: dict[type, Knobs] = {
    PPOUpdate: Knobs(
        {"run": _ppo},
        _SIZES
        | {
            "epochs": Turn(2, "run/passes"),
            "clip_range": Turn(0.01, "run/weights", {"epochs": 2}),
            "value_clip_range": Turn(0.01, "run/weights", {"epochs": 2}),
            "value_coef": Turn(0.5, "run/weights", {"max_grad_norm": None}),
            "entropy_coef": Turn(0.5, "run/weights"),
            "kl_coef": Turn(0.5, "run/weights"),
            "kl_estimator": Turn("k2", "run/weights"),
            "kl_place": Turn("loss", "run/weights", {"kl_estimator": "k2"}),
            "kl_target": Turn(0.5, "run/weights"),
            "gamma": Turn(0.5, "run/weights"),
            "lam": Turn(0.5, "run/weights"),
            "advantage_estimator": Turn("leave_one_out", "run/weights"),
            "whiten_advantages": Turn(False, "run/weights"),
            "whiten_over": Turn("all", "run/weights"),
            "critic_rows": Turn("all", "run/weights"),
            "loss_aggregation": Turn("seq_sum", "run/weights", {"max_grad_norm": None}),
            "truncated": Turn("mask", "run/weights"),
            "truncation_penalty": Turn(3.0, "run/weights", {"truncated": "penalty"}),
            "critic_warmup_iterations": Turn(2, "run/weights"),
            "max_grad_norm": Turn(0.01, "run/weights"),
        },
    ),
    ReinforceUpdate: Knobs(
        {"run": _reinforce},
        _SIZES
        | {
            "baseline": Turn("none", "run/weights"),
            "momentum": Turn(0.1, "run/weights", {"baseline": "running_mean"}),
            "kl_coef": Turn(0.5, "run/weights"),
            "kl_estimator": Turn("k2", "run/weights", {"kl_coef": 0.01}),
            "entropy_coef": Turn(0.5, "run/weights"),
            "loss_aggregation": Turn("seq_sum", "run/weights"),
            "truncated": Turn("mask", "run/weights"),
            "truncation_penalty": Turn(3.0, "run/weights", {"truncated": "penalty"}),
            "max_grad_norm": Turn(0.01, "run/weights"),
            "scale_by_std": Turn(True, "run/weights"),
        },
    ),
    ImitationUpdate: Knobs(
        {"run": _imitate},
        {
            "backward_coef": Turn(0.5, "run/weights"),
            "backward_kl_coef": Turn(0.5, "run/weights", {"backward_coef": 0.5}),
            "loss_aggregation": Turn("seq_sum", "run/weights"),
            "minibatch_size": Turn(1, "run/passes"),
            "microbatch_size": Turn(1, "run/passes"),
            "max_grad_norm": Turn(0.01, "run/weights"),
            "seed": Turn(1, "run/weights", {"minibatch_size": 1}),
        },
    ),
    PreferenceUpdate: Knobs(
        {"run": _prefer},
        _SIZES
        | {
            "loss": Turn("ipo", "run/weights"),
            "beta": Turn(0.5, "run/weights"),
            "label_smoothing": Turn(0.2, "run/weights"),
            "max_grad_norm": Turn(0.01, "run/weights"),
        },
    ),
    Filtration: Knobs(
        {"rows": _filter},
        {
            "strategy": Turn("best_worst", "rows"),
            "keep": Turn(3, "rows"),
            "mode": Turn("sample", "rows"),
            "power": Turn(9.0, "rows", {"strategy": "power", "mode": "sample"}),
            "high": Turn(0.7, "rows", {"strategy": "top", "high": -0.3, "mode": "sample"}),
            "low": Turn(-9.0, "rows", {"strategy": "top_bottom", "high": 0.5, "low": -0.3, "mode": "sample"}),
            "seed": Turn(1, "rows"),
        },
    ),
    FaultGuard: Knobs(
        {"run": _guarded}, {"max_in_a_row": Turn(1, "run", refused="1 steps in a row could not be taken")}
    ),
    RunCheckpoints: Knobs(
        {"files": _checkpoints, "resumed": _resumed},
        {
            "every_n_iterations": Turn(1, "files"),
            "every_n_minutes": Turn(0.0, "files"),
            "keep": Turn(1, "files", {"every_n_iterations": 1}),
            "folder": Turn("elsewhere", "files"),
            "resume_despite": Turn(["other_world_size"], "resumed", refused_before="does not fit this run, processes"),
        },
        {"every_n_minutes": None},
    ),
    RolloutTable: Knobs(
        {"files": _table},
        {
            "every_n_iterations": Turn(2, "files"),
            "max_rows": Turn(3, "files"),
            "max_megabytes": Turn(0.0005, "files"),
            "path": Turn("elsewhere.jsonl", "files"),
        },
    ),
}
