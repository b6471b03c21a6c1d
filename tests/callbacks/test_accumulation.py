"""One gradient, however an optimiser batch is cut: into microbatches here, over ranks in a run of this file by itself.

``python test_accumulation.py FOLDER UPDATE ...`` trains an iteration on two processes and writes what each learned.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, PolicyCallback, PPOUpdate, ReinforceUpdate
from tamis.callbacks.minibatches import microbatches
from tamis.functional import LossAggregation
from tamis.modules import ActionEvaluation, PolicyModule
from tamis.rollout import Rollout

ROWS, STEPS, TOKENS, WIDTH = 16, 7, 5, 3
N = 4


class Tokens(PolicyModule):
    """Draws tokens from features of each step; what it once drew is fixed, so that runs can be compared."""

    num_samples = N

    def __init__(self, max_iterations: int = 1, critic: bool = True) -> None:
        super().__init__(max_iterations)
        self.with_critic = critic
        generator = torch.Generator().manual_seed(0)
        self.policy, self.critic = nn.Linear(WIDTH, TOKENS), nn.Linear(WIDTH, 1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.critic.requires_grad_(critic)
        self.start = nn.Linear(WIDTH, TOKENS).requires_grad_(False)
        self.start.load_state_dict(self.policy.state_dict())
        nn.init.normal_(self.start.bias, generator=generator)
        features = torch.randn(ROWS, STEPS, WIDTH, generator=generator)
        # The first half of the rows is short and the second long: a mean of means is far from the mean.
        lengths = torch.tensor([1, 2, 1, 2, 1, 3, 1, 2, 6, 7, 5, 7, 6, 7, 7, 5])
        self.drawn = Rollout(
            group_ids=torch.arange(ROWS) // N,
            actions=torch.randint(TOKENS, (ROWS, STEPS), generator=generator),
            response_mask=torch.arange(STEPS) < lengths.unsqueeze(1),
            rewards=torch.randn(ROWS, generator=generator),
            truncated=lengths == 7,
            observations={"features": features},
        )
        self.passes: list[int] = []

    def networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"policy": self.policy}
        return networks | {"critic": self.critic} if self.with_critic else networks

    def act(self, batch: Tensor) -> Rollout:
        return self.drawn.select((batch.long() * N + torch.arange(N)).flatten())

    def reward(self, rollout: Rollout) -> Rollout:
        return rollout

    @torch.no_grad()
    def complete(self, rollout: Rollout) -> Rollout:
        evaluation = self.evaluate_actions(rollout)
        self.passes.clear()
        ref = _log_probs(self.start, rollout)
        return rollout.replace(log_probs=evaluation.log_probs, values=evaluation.values, ref_log_probs=ref)

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        self.passes.append(len(rollout))
        log_softmax = torch.log_softmax(self.policy(rollout.observations["features"]), -1)
        entropy = -(log_softmax.exp() * log_softmax).sum(-1)
        values = self.critic(rollout.observations["features"]).squeeze(-1)
        return ActionEvaluation(_log_probs(self.policy, rollout), entropy, values)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(network.parameters(), lr=1.0) for network in self.networks().values()]


def _log_probs(policy: nn.Module, rollout: Rollout) -> Tensor:
    log_softmax = torch.log_softmax(policy(rollout.observations["features"]), -1)
    return log_softmax.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)


class Stats(PolicyCallback):
    """Keeps the statistics of every update."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Tensor]] = []

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        self.seen.append(stats)


#: Every term of the losses at once, and every aggregation.
UPDATES: dict[str, Any] = {
    **{
        f"ppo_{how}": lambda how=how, **sizes: PPOUpdate(
            loss_aggregation=how, entropy_coef=0.1, kl_coef=0.3, kl_estimator="k2", kl_place="loss", **sizes
        )
        for how in get_args(LossAggregation)
    },
    **{
        f"ppo_mask_{how}": lambda how=how, **sizes: PPOUpdate(loss_aggregation=how, truncated="mask", **sizes)
        for how in get_args(LossAggregation)
    },
    **{
        f"reinforce_{how}": lambda how=how, **sizes: ReinforceUpdate(loss_aggregation=how, entropy_coef=0.1, **sizes)
        for how in get_args(LossAggregation)
    },
}


def _fit(module: Tokens, *callbacks: Any, processes: int = 1) -> Trainer:
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    prompts = torch.arange(ROWS // N).view(processes, -1, 1)[trainer.global_rank]
    trainer.fit(module, DataLoader(prompts, batch_size=len(prompts)))  # type: ignore[arg-type]
    return trainer


def _learn(update: str, processes: int = 1, **sizes: int) -> dict[str, Tensor]:
    """Weights after one iteration, and its statistics."""
    module, stats = Tokens(critic=update.startswith("ppo")), Stats()
    _fit(module, UPDATES[update](max_grad_norm=None, **sizes), stats, processes=processes)
    networks = {f"{name}.{key}": v for name, net in module.networks().items() for key, v in net.state_dict().items()}
    return networks | dict(stats.seen[0])


@pytest.mark.parametrize("update", UPDATES)
def test_accumulation_changes_no_gradient(update: str) -> None:
    """SGD at rate 1, so that weights differ by what gradients differ."""
    whole = _learn(update)
    assert not torch.equal(whole["policy.weight"], Tokens().policy.weight)
    for accumulation in (2, 4, 8):
        parts = _learn(update, microbatch_size=ROWS // accumulation)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-6)


def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    """The short rows lie on the first rank; each has two microbatches."""
    updates = ["ppo_token_mean", "ppo_mask_seq_mean", "reinforce_token_mean"]
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), *updates], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for update in updates:
        one = _learn(update)
        ranks = [torch.load(tmp_path / f"{update}.{rank}", weights_only=True) for rank in range(2)]
        for name in one:
            if name.startswith(("policy.", "critic.", "update/grad_norm")):
                torch.testing.assert_close(ranks[0][name], one[name], atol=1e-6, rtol=1e-5)
                assert torch.equal(ranks[0][name], ranks[1][name])
            elif not name.endswith(("_max", "_first_minibatch", "explained_variance")):
                mean = (ranks[0][name] + ranks[1][name]) / 2  # as the loggers reduce them
                torch.testing.assert_close(mean, one[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("epochs", "minibatch_size", "microbatch_size", "steps", "passes"),
    [(1, None, None, 1, [16]), (1, 8, None, 2, [8] * 2), (3, 8, 2, 6, [2] * 24), (2, None, 4, 2, [4] * 8)],
)
def test_steps_and_passes_are_as_many_as_the_sizes_say(
    epochs: int, minibatch_size: int | None, microbatch_size: int | None, steps: int, passes: list[int]
) -> None:
    module = Tokens()
    update = PPOUpdate(epochs=epochs, minibatch_size=minibatch_size, microbatch_size=microbatch_size)
    trainer = _fit(module, update)
    assert trainer.global_step == 2 * steps  # two optimisers
    assert module.passes == passes


def test_the_sizes_are_printed_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        _fit(Tokens(2), Filtration("best_worst", keep=2), PPOUpdate(epochs=3, minibatch_size=4, microbatch_size=2))
    (text,) = [record.getMessage() for record in caplog.records if "rollout_batch" in record.getMessage()]
    assert [line.split(maxsplit=1) for line in text.splitlines()[1:5]] == [
        ["rollout_batch", "16 rows sampled, 8 kept"],
        ["minibatch", "4"],
        ["microbatch", "2"],
        ["ppo_epochs", "3"],
    ]
    assert text.splitlines()[5].split() == ["optimiser", "steps", "an", "iteration", "6"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"minibatch_size": 6}, "16 kept rows an iteration cannot be cut into minibatches of 6"),
        ({"microbatch_size": 3}, "a minibatch of 16 rows cannot be cut into microbatches of 3"),
    ],
)
@pytest.mark.parametrize("update", [PPOUpdate, ReinforceUpdate])
def test_indivisible_sizes_stop_before_training(update: Any, sizes: dict[str, int], message: str) -> None:
    module = Tokens()
    with pytest.raises(ValueError, match=message):
        _fit(module, update(**sizes))
    assert module.iteration == 0
    assert module.passes == []


@pytest.mark.parametrize("update", [PPOUpdate, ReinforceUpdate])
def test_sizes_that_cannot_fit_are_refused_at_once(update: Any) -> None:
    with pytest.raises(ValueError, match="minibatch_size=6 is no multiple of microbatch_size=4"):
        update(minibatch_size=6, microbatch_size=4)
    with pytest.raises(ValueError, match="microbatch_size must be at least 1 or null, got 0"):
        update(microbatch_size=0)


def test_a_batch_that_is_shorter_than_the_others_is_named() -> None:
    with pytest.raises(ValueError, match="a minibatch of 16 rows cannot be cut into microbatches of 5"):
        microbatches(Tokens().drawn, 5)


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    for each in names:
        learned = _learn(each, processes=2, microbatch_size=ROWS // 4)
        torch.save(learned, Path(folder) / f"{each}.{torch.distributed.get_rank()}")
