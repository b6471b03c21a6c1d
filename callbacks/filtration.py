"""Policy filtration: only a rank-chosen few of each group's responses reach policy and critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..functional import SelectionMode, Strategy, select
from ..modules.policy import PolicyCallback, PolicyModule, PolicyUpdate, policy_generator
from ..processes import place
from ..rollout import Rollout
from .reliability import RewardReliability
from .reliability_report import Candidate, measure, most_reliable


class Filtration(PolicyCallback):
    """Rank each group's responses by reward and keep ``keep`` of them (PF-PPO, section 4).

    Rows that do not pass cost generation and reward only: log-probabilities, values and gradients are computed for the
    kept rows alone. Ranks are taken inside a group, and every group keeps the same number, so that all ranks of a
    distributed run take the same steps. An update that asks for all rows (``critic_rows`` and ``whiten_over`` of
    `PPOUpdate`) gets them with the kept ones marked.

    With ``auto``, each time `RewardReliability` has measured its probe set, R^2 of reward and pass rate is measured of
    what every candidate would keep, and the candidate with the highest lower bound of it is taken (a line that falls
    counts for nothing; without any other, and on a tie, the present one stays). All keep ``keep`` rows, so that their
    bounds stand on equal numbers. The first candidate is taken until something is measured. List `RewardReliability`
    before the filter (the command line does that), or each choice comes an iteration late.

    Args:
        strategy: ``none``, ``random`` (the control), ``best_of_n``, ``best_random``, ``best_worst``, ``top``,
            ``top_random``, ``top_bottom`` or ``power`` (see `tamis.functional.select`); or ``auto``.
        keep: responses to keep of each group; ``none`` keeps all.
        mode: ``hard`` keeps different responses; ``sample`` draws from the strategy's weights with replacement.
        power: exponent k of ``power``.
        high: upper threshold of ``top``, ``top_random``, ``top_bottom``, in units of the reward.
        low: lower threshold of ``top_bottom``.
        seed: of the draws and of random tie-breaking.
        candidates: the strategies that ``auto`` chooses from; not ``none``, which would keep another number of rows
            (``random`` keeps rows as they come).
    """

    def __init__(
        self,
        strategy: Strategy | Literal["auto"] = "best_random",
        keep: int = 2,
        mode: SelectionMode = "hard",
        power: float = 1.0,
        high: float | None = None,
        low: float | None = None,
        seed: int = 0,
        candidates: Sequence[Strategy] = ("best_random", "best_worst", "best_of_n", "random"),
    ) -> None:
        if strategy not in (*get_args(Strategy), "auto"):
            raise ValueError(f"unknown strategy {strategy!r}; choose one of {', '.join(get_args(Strategy))}, auto")
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        _check_candidates(candidates)
        self.strategy: Strategy | Literal["auto"] = strategy
        #: The strategy in use: with ``auto`` the choice of the moment.
        self.chosen: Strategy = candidates[0] if strategy == "auto" else strategy
        self.candidates = tuple(candidates)
        self._measured: int | None = None
        self.keep = keep
        self.mode: SelectionMode = mode
        self.power, self.high, self.low = power, high, low
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: object, stage: str) -> None:
        """Refuse ``keep`` > N, and ranks among one, before any time is spent, where the module tells its N."""
        n = getattr(pl_module, "num_samples", None)
        if stage == "fit" and n == 1 and self.strategy not in ("none", "random"):
            raise ValueError(
                f"{self.strategy} compares the responses of a prompt, and num_samples=1 gives it nothing to compare; "
                "raise num_samples, or set the strategy to none"
            )
        if stage != "fit":
            return
        sizes = [n]
        if self.strategy == "auto":
            sizes.append(_reliability(trainer).probe_samples or n)
        for strategy in self.candidates if self.strategy == "auto" else (self.strategy,):
            for size in sizes:
                if isinstance(size, int) and strategy != "none":
                    # The same checks as in the loop, on a rollout of the run's shape.
                    self._candidate(strategy).columns(torch.arange(float(size)).unsqueeze(0), self.seed)

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        """Keep the chosen rows."""
        if rollout.rewards is None:
            raise ValueError("Filtration ranks by reward, and this rollout has none")
        choice = {}
        if self.strategy == "auto":
            self._choose(trainer)
            choice["filter/strategy"] = float(get_args(Strategy).index(self.chosen))
        groups = rollout.groups()
        rewards = rollout.rewards.detach()[groups]
        columns = self._columns(rewards, policy_generator(module, "filter", self.seed))
        kept = columns.numel()
        module.log_dict(
            choice
            | {
                "filter/rows_in": float(len(rollout)),
                "filter/rows_kept": float(kept),
                "filter/rows_dropped": float(len(rollout) - kept),
                "filter/reward_all": rewards.mean(),
                "filter/reward_kept": rewards.gather(1, columns).mean(),
            },
            sync_dist=True,
        )
        rows = groups.gather(1, columns).flatten()
        if not needs_all_rows(trainer):
            return rollout.select(rows)
        counts = torch.zeros(len(rollout), device=rows.device)
        return rollout.replace(kept=counts.index_add(0, rows, counts.new_ones(len(rows))))

    @property
    def state_key(self) -> str:
        """Filters one behind the other differ in what they do or in what they keep."""
        return self._generate_state_key(strategy=self.strategy, keep=self.keep)

    def state_dict(self) -> dict[str, Any]:
        """The choice of the moment."""
        return {"chosen": self.chosen, "measured": self._measured} if self.strategy == "auto" else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it, unless this run is given a strategy or other candidates."""
        if self.strategy == "auto" and state_dict.get("chosen") in self.candidates:
            self.chosen, self._measured = state_dict["chosen"], state_dict["measured"]

    def _columns(self, rewards: Tensor, generator: torch.Generator) -> Tensor:
        """``[P, keep]`` what passes of these ``[P, N]`` rewards: what one process with all ranks' groups would keep.

        A group's draws hang on its place among all of them, which are dealt to ranks in turn; what the other ranks'
        rewards are does not matter to it.
        """
        rank, ranks = place()
        whole = rewards.new_zeros(len(rewards) * ranks, rewards.shape[1])
        whole[rank::ranks] = rewards
        kept = select(
            whole, self.chosen, self.keep, self.mode, generator, power=self.power, high=self.high, low=self.low
        )
        return kept[rank::ranks]

    def _choose(self, trainer: Trainer) -> None:
        """Take the most reliable candidate on the newest samples of the probe set, if they are new."""
        reliability = _reliability(trainer)
        probed = reliability.probed
        if probed is None or probed.iteration == self._measured:
            return
        self._measured = probed.iteration
        candidates = [self._candidate(strategy) for strategy in self.candidates]
        fits = measure(probed.rewards, probed.passed, candidates, reliability.settings)
        best = most_reliable(fits, self.chosen) or self.chosen
        # Every rank has the same samples; should machines round differently, the first one's choice counts.
        best = trainer.strategy.broadcast(best) if trainer.world_size > 1 else best
        if best != self.chosen:
            bounds = ", ".join(f"{name} {fit.low:.3f}" for name, fit in fits.items())
            rank_zero_info(
                f"Filtration: {self.chosen} -> {best} from iteration {probed.iteration} on; lower bounds of R^2 on the "
                f"probe set: {bounds}"
            )
            self.chosen = next(strategy for strategy in self.candidates if strategy == best)

    def _candidate(self, strategy: Strategy) -> Candidate:
        return Candidate(strategy, strategy, self.keep, self.mode, self.power, self.high, self.low)


def _check_candidates(candidates: Sequence[Strategy]) -> None:
    unknown = [name for name in candidates if name not in get_args(Strategy) or name == "none"]
    if unknown or not candidates or len(set(candidates)) < len(candidates):
        raise ValueError(
            f"candidates must be one or more different strategies, each of {', '.join(get_args(Strategy)[1:])} (none "
            f"keeps all rows, and auto the same number in every iteration: take random), got {list(candidates)}"
        )


def _reliability(trainer: Trainer) -> RewardReliability:
    """The callback that measures the probe set.

    Raises:
        ValueError: naming the way out, if there is none.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    found = [callback for callback in callbacks if isinstance(callback, RewardReliability) and callback.probe]
    if len(found) != 1:
        raise ValueError(
            "Filtration(strategy='auto') chooses by what one RewardReliability measures on its probe set, and the "
            f"trainer has {len(found)} with a probe. On the command line add `--trainer.callbacks+=RewardReliability "
            "--trainer.callbacks.probe=validation.jsonl[:50]`, in a script "
            "RewardReliability(probe='validation.jsonl[:50]') before the filter; or name a strategy"
        )
    return found[0]


def needs_all_rows(trainer: Trainer) -> bool:
    """Whether this run's update wants the rows that filtration does not keep, too."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, PolicyUpdate) and callback.needs_all_rows for callback in callbacks)
