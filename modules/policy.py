"""The shared loop: act -> reward -> filter -> complete -> update, and the seams through which callbacks join it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ..rollout import Rollout
from ..seeding import generator_of
from .reward_failures import NoFiniteRewardError
from .sound_steps import SKIPPED, SoundSteps, gradient_norm


class ActionEvaluation(NamedTuple):
    """What a policy says of given actions under its parameters of this moment.

    Args:
        log_probs: ``[B, T]`` log-probability of each step taken.
        entropy: ``[B, T]`` entropy of the distribution that each step was drawn from.
        values: ``[B, T]`` the critic's estimates, ``None`` for a policy without a critic.
    """

    log_probs: Tensor
    entropy: Tensor
    values: Tensor | None


class PolicyCallback(Callback):
    """A Lightning callback that may also change a rollout and watch the update.

    Callbacks see the rollout in the order in which the trainer lists them.
    """

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        """Called once the rewards are known and before anything else is computed; returns the rollout to learn from."""
        return rollout

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        """Called after the optimisers' steps, with the rollout that was learned from and the update's statistics."""


class PolicyUpdate(PolicyCallback, ABC):
    """How the policy learns from a rollout. A run has exactly one."""

    #: False for an update that leaves the rewards aside and only steps the loss which the module hands over.
    learns_from_rewards: ClassVar[bool] = True

    @property
    def needs_all_rows(self) -> bool:
        """True where a filter is to mark the rows that it keeps (``Rollout.kept``) instead of dropping the others."""
        return False

    @abstractmethod
    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        """Take the optimisers' steps and return statistics under ``update/`` names, as detached scalars."""


class PolicyModule(SoundSteps, ABC):
    """A policy, its environment and its reward; what it learns by is a `PolicyUpdate` among the trainer's callbacks.

    The whole loop runs inside ``training_step``, so that it stays inside the forward of the trainer's strategy.
    ``iteration`` counts rounds of the loop and drives schedules, logging and the stop, because Lightning's
    ``global_step`` counts the steps of every optimiser.

    An optimiser step on a loss or gradient that is not finite is skipped, and so is the whole iteration where a reward
    is not: no filter or update sees one. See `SoundSteps`.

    Args:
        max_iterations: rounds of the loop after which training stops; ``None`` leaves it to the trainer's limits.
    """

    #: Networks of the environment: they step once an iteration, on the loss that the rollout hands over.
    environment_networks: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, max_iterations: int | None = None) -> None:
        super().__init__()
        if max_iterations is not None and max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1 or null (no limit), got {max_iterations}")
        self.automatic_optimization = False
        self.max_iterations = max_iterations
        self.iteration = 0

    @abstractmethod
    def act(self, batch: Any) -> Rollout:  # noqa: ANN401 - a batch is whatever the datamodule gives
        """Draw actions for a batch."""

    @abstractmethod
    def reward(self, rollout: Rollout) -> Rollout:
        """Fill ``rewards`` (and ``environment_loss`` where the environment learns too)."""

    def complete(self, rollout: Rollout) -> Rollout:
        """Fill what the update needs of these rows only: log-probabilities, reference, values. May reorder them."""
        return rollout

    @abstractmethod
    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        """Evaluate the rollout's actions under today's parameters, with gradients."""

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The trained networks by name, in the order of the optimisers that ``configure_optimizers`` returns."""

    @property
    def learns_from_rewards(self) -> bool:
        """False where the module's own loss is the whole objective, see `PolicyUpdate.learns_from_rewards`."""
        return True

    def setup(self, stage: str) -> None:
        """Refuse a run that could not learn, before any time is spent on it."""
        super().setup(stage)
        if stage == "fit":
            self._policy_update()

    def training_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """One round of the loop."""
        clock, skipped = _Clock(), self.skipped_steps
        self.begin_step(batch, batch_idx, self.networks().values())
        rollout = self.act(batch)
        clock.lap("act")
        tokens = rollout.response_mask.sum()
        rewarded = self._rewarded(rollout)
        clock.lap("reward")
        learned = None if rewarded is None else self._learn(rewarded, clock)
        self.iteration += 1
        self.log("step", float(self.iteration))  # Lightning takes this as the x-axis of every logger
        self.log("iteration", float(self.iteration))
        self.log(SKIPPED, float(self.skipped_steps - skipped))
        self.log("update/skipped_steps_total", float(self.skipped_steps))
        self.log_dict(clock.metrics(tokens))
        if learned is not None:
            for callback in self._policy_callbacks():
                callback.on_update_end(self.trainer, self, *learned)
        self._seen = (None, 0)
        self._step_schedulers("step")
        if self.max_iterations is not None and self.iteration >= self.max_iterations:
            self.trainer.should_stop = True

    def _rewarded(self, rollout: Rollout) -> Rollout | None:
        """The rollout with its rewards; ``None`` where one is not finite, on any rank, and the iteration is over."""
        cause = ""
        try:
            rollout = self.reward(rollout)
            if rollout.rewards is None:
                return rollout
            lost = (~torch.isfinite(rollout.rewards)).any()
        except NoFiniteRewardError as error:
            cause, lost = str(error), torch.tensor(True)
        faults = self.faults({"the reward": torch.where(lost, torch.nan, 0.0)})
        if faults:
            self.skip_step(faults, cause)
        return None if faults else rollout

    def _learn(self, rollout: Rollout, clock: _Clock) -> tuple[Rollout, dict[str, Tensor]]:
        """The rollout that was learned from and the update's statistics."""
        for callback in self._policy_callbacks():
            rollout = callback.on_rollout(self.trainer, self, rollout)
        clock.lap("filter")
        rollout = self.complete(rollout)
        clock.lap("complete")
        stats = self._policy_update().update(self.trainer, self, rollout)
        clock.lap("update")
        return rollout, {name: value for name, value in stats.items() if name != SKIPPED}

    def on_train_epoch_end(self) -> None:
        """Step the schedules that count epochs."""
        self._step_schedulers("epoch")

    def optimize(
        self,
        loss: Tensor | Sequence[Callable[[], Tensor]],
        environment_loss: Tensor | None = None,
        max_grad_norm: float | None = None,
        *,
        hold: Collection[str] = (),
        shared_graph: bool = False,
    ) -> dict[str, Tensor]:
        """One step of each optimiser concerned, after one backward pass, or several whose gradients add up.

        None of them steps if the loss or the gradient of one of the networks is not finite.

        Args:
            loss: scalar loss of the policy (and critic), or functions that each compute one part of it: every part is
                computed, and its graph freed, before the next one is.
            environment_loss: scalar loss of the environment's networks; they step only when it is given.
            max_grad_norm: each network's gradient is clipped to this norm; ``None`` does not clip.
            hold: names of networks that do not step.
            shared_graph: the parts hang on one graph, which must live until the last of them.

        Returns:
            The norm of each stepped network's gradient before clipping, as ``update/grad_norm_<network>``; and
            ``update/skipped_steps``, 1, if the step was skipped.

        Raises:
            RepeatedFaults: if it is one too many in a row that had to be skipped.
        """
        stepped = {
            name: (network, optimizer)
            for (name, network), optimizer in zip(self.networks().items(), self._optimizers(), strict=True)
            if name not in hold and (environment_loss is not None or name not in self.environment_networks)
        }
        for _, optimizer in stepped.values():
            optimizer.zero_grad()
        whole = self._backward([lambda: loss] if isinstance(loss, Tensor) else loss, environment_loss, shared_graph)
        scaler = self.scaler()
        norms = {name: gradient_norm(network.parameters()) for name, (network, _) in stepped.items()}
        if scaler is not None:
            norms = {name: norm / scaler.get_scale() for name, norm in norms.items()}
        told = {f"update/grad_norm_{name}": norm for name, norm in norms.items()}
        gradients = {f"the gradient's norm of the {name}": norm for name, norm in norms.items()}
        faults = self.faults({"the loss": whole} | (gradients if scaler is None else {}))
        if faults:
            for _, optimizer in stepped.values():
                optimizer.zero_grad()
            self.skip_step(faults)
            return told | {SKIPPED: torch.ones_like(whole)}
        for name, (network, optimizer) in stepped.items():
            if max_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(network.parameters(), max_grad_norm, norms[name])
            optimizer.step()
        self.step_taken()
        return told

    def _backward(
        self, parts: Sequence[Callable[[], Tensor]], environment_loss: Tensor | None, shared_graph: bool
    ) -> Tensor:
        """The backward passes of one step; ranks exchange gradients in the last one only. Returns the whole loss."""
        strategy = self.trainer.strategy
        whole = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            quiet = isinstance(strategy, ParallelStrategy) and not last
            with strategy.block_backward_sync() if quiet else nullcontext():  # type: ignore[attr-defined]
                loss = part()
                if environment_loss is not None and number == 1:
                    loss = loss + environment_loss
                self.manual_backward(loss, retain_graph=shared_graph and not last)
            whole = whole + loss.detach()
            del loss  # with it goes its graph, before the next part builds another
        return whole

    def _moment(self) -> str:
        return f"iteration {self.iteration + 1}"

    def on_train_start(self) -> None:
        """A resumed run that has reached its number of iterations has nothing left to do but its end."""
        if self.max_iterations is not None and self.iteration >= self.max_iterations:
            rank_zero_info(f"{self.iteration} of max_iterations={self.max_iterations} are done; raise it to go on")
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the iteration counter."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stopped."""
        super().on_load_checkpoint(checkpoint)
        if "iteration" not in checkpoint:
            raise ValueError(
                f"the checkpoint counts no iterations, so that another module than a {type(self).__name__} wrote it; "
                "give --ckpt_path with the model that it was written with"
            )
        self.iteration = int(checkpoint["iteration"])

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _step_schedulers(self, interval: str) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval:
                config.scheduler.step()  # type: ignore[call-arg]

    def _policy_callbacks(self) -> list[PolicyCallback]:
        return [callback for callback in _callbacks(self.trainer) if isinstance(callback, PolicyCallback)]

    def _policy_update(self) -> PolicyUpdate:
        updates = [callback for callback in self._policy_callbacks() if isinstance(callback, PolicyUpdate)]
        names = ", ".join(type(update).__name__ for update in updates)
        if not updates:
            raise MisconfigurationException(
                f"{type(self).__name__} needs one update to learn by, and the trainer has none. Add one: "
                "`--update PPOUpdate` or `--update ReinforceUpdate` on the command line, "
                "`Trainer(callbacks=[..., PPOUpdate()])` in a script."
            )
        if len(updates) > 1:
            raise MisconfigurationException(
                f"{type(self).__name__} learns by exactly one update, and the trainer has {len(updates)}: {names}. "
                "Keep one of them."
            )
        if updates[0].learns_from_rewards != self.learns_from_rewards:
            wanted = "PPOUpdate or ReinforceUpdate" if self.learns_from_rewards else "EnvironmentUpdate"
            raise MisconfigurationException(
                f"{names} does not fit this {type(self).__name__}: it "
                + ("learns from rewards" if self.learns_from_rewards else "hands over its whole loss itself")
                + f". Use `--update {wanted}`."
            )
        return updates[0]


class _Clock:
    """Seconds of this process in each phase of an iteration, and the pace that they make."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """The phase that ends now."""
        now = time.perf_counter()
        self._seconds[phase], self._last = now - self._last, now

    def metrics(self, tokens: Tensor) -> dict[str, float | Tensor]:
        """Under ``timing/`` names; ``tokens`` are those that were sampled."""
        whole = sum(self._seconds.values())
        metrics: dict[str, float | Tensor] = {f"timing/{phase}_s": value for phase, value in self._seconds.items()}
        pace = {"timing/tokens_per_s": tokens / whole, "timing/act_tokens_per_s": tokens / self._seconds["act"]}
        return metrics | {"timing/iteration_s": whole} | pace


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def policy_generator(module: PolicyModule, purpose: str, seed: int) -> torch.Generator:
    """A generator on the module's device that depends on purpose, seed and iteration, and on nothing else.

    The purpose keeps streams apart: with one stream for sampling and filtering, the rows that pass would depend on the
    very numbers that drew their tokens. All ranks have the same one: who draws by it draws for the batch of all ranks
    and takes its own part, so that n ranks choose what one process chooses.
    """
    return generator_of(f"{purpose}/{seed}/{module.iteration}", module.device)
