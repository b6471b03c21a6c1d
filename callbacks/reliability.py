"""How far a reward can be trusted: a report under ``tamis test``, and a watch on a probe set during training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ..functional import Binning, r_squared, rank_agreement
from ..modules import CodePolicy
from ..modules.code_evaluation import each_once, gather
from ..modules.policy import PolicyCallback, PolicyModule
from ..modules.prompts import records_of
from ..rollout import Rollout
from ..run_dir.writing import name_the_file, write_whole
from .probe import Probed, Record, Watch, check_prompts, probe_records, probed, sample_probe
from .reliability_plot import draw
from .reliability_report import Row, Settings, as_json, candidates, check_enough, matrices, report, show

REPORT, PICTURE = "reliability.json", "reliability.png"


class RewardReliability(PolicyCallback):
    """Compares reward and verified pass rate (PF-PPO, section 4): of the test samples, and of a probe set in training.

    Under ``tamis test``: R^2 of every strategy with its interval, Kendall's tau-b and AUC (also inside tasks, which is
    what a filter ranks), pass rates by reward, a picture, a JSON file, and the strategy to take: the one with the
    highest lower bound of R^2. The module samples several responses a task (``--model.eval_samples 5
    --model.eval_temperature 1``) and has a reward. Intervals resample tasks: a task's samples are not independent.

    During training, with ``probe``: every few iterations the policy answers the same tasks, with the same draws, and
    the run logs ``val/probe_*``. It warns of reward hacking when the reward is up and the pass rate down, each by more
    than ``divergence_threshold`` standard errors over tasks (`tamis.functional.divergence`), against the earlier
    measurement of the highest pass rate; once each time they part. `Filtration` with ``strategy: auto`` chooses by
    these samples.

    Args:
        bins: groups of similar reward.
        binning: ``quantile`` for groups of equal count, ``width`` for groups of equal width.
        bootstrap: resamples for the intervals.
        folder: where ``reliability.json`` and ``reliability.png`` go; ``None`` is the run directory.
        seed: of draws and resamples.
        keep: responses of each task that a strategy keeps in the report (``best_of_n`` 1, ``none`` all).
        powers: the k of each ``power`` strategy in the report; they want rewards centred on 0.
        high: threshold of ``top``, ``top_random`` and ``top_bottom``, which are in the report if it is given.
        low: lower threshold of ``top_bottom``.
        probe: the fixed tasks: a source as of `CodeTasks` (``validation.jsonl[:50]``), or the number of validation
            tasks to take. ``None`` measures nothing during training.
        probe_samples: responses a task of the probe set; ``None`` is the module's ``num_samples``.
        every_n_iterations: iterations from one measurement to the next; the first is before the first update.
        divergence_threshold: standard errors that reward and pass rate must move apart for a warning.
    """

    def __init__(
        self,
        bins: int = 10,
        binning: Binning = "quantile",
        bootstrap: int = 1000,
        folder: str | None = None,
        seed: int = 0,
        keep: int = 2,
        powers: Sequence[float] = (1.0, 2.0, 3.0),
        high: float | None = None,
        low: float | None = None,
        probe: int | str | None = None,
        probe_samples: int | None = None,
        every_n_iterations: int = 10,
        divergence_threshold: float = 3.0,
    ) -> None:
        if bins < 2 or binning not in get_args(Binning) or bootstrap < 1:
            raise ValueError(
                f"need bins >= 2, binning quantile or width and bootstrap >= 1, got {bins}, {binning!r} and {bootstrap}"
            )
        if keep < 1 or every_n_iterations < 1 or divergence_threshold <= 0:
            raise ValueError(
                "keep and every_n_iterations must be at least 1 and divergence_threshold above 0, got "
                f"{keep}, {every_n_iterations} and {divergence_threshold}"
            )
        if (probe_samples is not None and probe_samples < 2) or (isinstance(probe, int) and probe < 2):
            raise ValueError(f"a probe set needs 2 or more tasks and samples of each, got {probe} and {probe_samples}")
        if low is not None and high is None:
            raise ValueError(f"low={low} is the second threshold of top_bottom, which needs high as well")
        self.settings = Settings(bins, binning, bootstrap, seed)
        self.folder, self.keep, self.powers, self.high, self.low = folder, keep, tuple(powers), high, low
        self.probe, self.probe_samples, self.every_n_iterations = probe, probe_samples, every_n_iterations
        #: The newest measurement of the probe set.
        self.probed: Probed | None = None
        self._watch = Watch(divergence_threshold)
        self._records: list[Record] = []
        self._rows: list[Row] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would measure nothing, before anything is sampled."""
        if stage == "test":
            _check_test(pl_module)
        if stage == "fit" and self.probe is not None:
            module = _code_policy(pl_module)
            module.verifier.start()
            self._records = probe_records(self.probe, trainer)
            check_enough(len(self._records), self.settings.bins)
            check_prompts(module, self._records)
            self._check_sizes(module)

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        """Measure the policy that has just sampled, if it is time."""
        if self._records and module.iteration % self.every_n_iterations == 0:
            policy = _code_policy(module)
            rows = sample_probe(trainer, policy, self._records, self._samples(policy), len(rollout))
            measured = probed(policy, rows, self.settings.bins)
            if measured is not None:
                self._follow(trainer, policy, measured)
        return rollout

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with no samples."""
        self._rows = []
        records = records_of(trainer.test_dataloaders)
        if records:
            check_enough(len(records), self.settings.bins)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the judged samples."""
        wanted = ("task_id", "prompt", "sample", "status", "passed", "reward")
        self._rows += [{key: row[key] for key in wanted} for row in outputs["samples"]]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the ranks' samples together; the first rank measures, draws and writes."""
        rows = each_once(gather(self._rows))
        self._rows = []
        if trainer.is_global_zero:
            self._report(rows, Path(self.folder or trainer.default_root_dir))

    @property
    def state_key(self) -> str:
        """Measurements of different probe sets are not compared."""
        return self._generate_state_key(probe=self.probe)

    def state_dict(self) -> dict[str, Any]:
        """What the next measurement is compared with, and the newest one, by which a filter may be about to choose."""
        if self.probe is None:
            return {}
        return self._watch.state_dict() | {"probed": None if self.probed is None else dict(vars(self.probed))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the measurements before the checkpoint."""
        if self.probe is not None:
            self._watch.load_state_dict(state_dict)
            newest = state_dict.get("probed")
            self.probed = None if newest is None else Probed(**newest)

    def _report(self, rows: Sequence[Row], folder: Path) -> None:
        tasks, rewards, passed = matrices(rows)
        left_out = len({row["task_id"] for row in rows}) - len(tasks)
        if left_out:
            rank_zero_warn(
                f"{left_out} tasks are left out: the sandbox lost programs of theirs, or a reward is no number"
            )
        check_enough(len(tasks), self.settings.bins)
        keep = min(self.keep, rewards.shape[1])
        found = report(rewards, passed, candidates(keep, self.powers, self.high, self.low), self.settings)
        show(found)
        with name_the_file(folder / REPORT, "Make room and run the test again."):
            write_whole(folder / REPORT, json.dumps(as_json(found, left_out), indent=2, allow_nan=False) + "\n")
            draw(found, folder / PICTURE)
        rank_zero_info(f"Written to {folder / REPORT} and {folder / PICTURE}")

    def _follow(self, trainer: Trainer, module: CodePolicy, now: Probed) -> None:
        """Log a measurement, and warn if it has parted from the earlier ones. Every rank has the same numbers."""
        self.probed = now
        moved, warning = self._watch.compare(now)
        if warning:
            rank_zero_warn(warning)
        tasks = [index for index in range(len(now.tasks)) for _ in range(now.rewards.shape[1])]
        rewards, passed = now.rewards.flatten(), now.passed.flatten()
        fit = r_squared(rewards, passed, self.settings.bins, self.settings.binning, bootstrap=0)
        agreement = rank_agreement(rewards, passed, rewards.new_tensor(tasks).long(), bootstrap=0)
        metrics = {
            "val/probe_reward": float(rewards.mean()),
            "val/probe_pass_rate": float(passed.mean()),
            "val/probe_length": now.length,
            "val/probe_distinct_2": now.distinct_2,
            "val/probe_r_squared": fit.value,
            "val/probe_kendall_tau": agreement.tau.value,
        }
        if moved is not None:
            metrics |= {"val/probe_reward_z": moved.reward_z, "val/probe_pass_rate_z": moved.score_z}
        module.log_dict(metrics, logger=False)
        # Straight to the loggers: `log_every_n_steps` would leave out what is measured in between.
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=module.iteration + 1)

    def _samples(self, module: CodePolicy) -> int:
        return self.probe_samples or module.num_samples

    def _check_sizes(self, module: CodePolicy) -> None:
        if self._samples(module) < 2:
            raise ValueError(f"num_samples={module.num_samples} leaves nothing to compare; set probe_samples to 5, say")
        if module.reward_function is None:
            raise ValueError("RewardReliability needs a reward to follow; set `--model.reward LearnedReward`")
        if module.max_iterations is not None and module.max_iterations <= self.every_n_iterations:
            raise ValueError(
                f"every_n_iterations={self.every_n_iterations} measures the probe set only once in "
                f"max_iterations={module.max_iterations}, so that nothing can be compared; measure more often"
            )


def _code_policy(module: object) -> CodePolicy:
    if not isinstance(module, CodePolicy):
        raise ValueError(
            f"RewardReliability needs a CodePolicy, whose answers can be tested; got {type(module).__name__}"
        )
    return module


def _check_test(pl_module: object) -> None:
    module = _code_policy(pl_module)
    if module.evaluation.samples < 2:
        raise ValueError(
            "RewardReliability needs the same number (2 or more) of samples of every task, got "
            f"[{module.evaluation.samples}]; set `--model.eval_samples 5 --model.eval_temperature 1`"
        )
    if module.reward_function is None:
        raise ValueError("RewardReliability needs rewards; set `--model.reward LearnedReward` and its folder")
