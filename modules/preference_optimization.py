"""Learning from preference pairs without a reward model: DPO, IPO and KTO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from ..functional import dpo_loss, ipo_loss, kto_loss, response_log_ratios
from ..functional.preference import check_beta, check_label_smoothing
from .action_scores import score_actions
from .language_model import (
    PromptFormat,
    TokenBatch,
    check_vocabulary,
    load_causal_lm,
    load_tokenizer,
    pad,
    save_language_model,
    tokenize,
)
from .prompts import check_prompt_format, check_room, records_of, within_context
from .reference import make_reference, reference_at_hand
from .schedules import Schedule, with_schedule
from .sharding import gathered, shard_networks
from .sound_steps import SoundAutomaticSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PreferenceLoss = Literal["dpo", "ipo", "kto"]
Batch = Sequence[Mapping[str, Any]]


class PairTokens(NamedTuple):
    """A batch of B pairs as 2 B rows: all chosen responses, then all rejected ones.

    Args:
        prompts: ``[2 B, L]``, padded on the left.
        responses: ``[2 B, T]``, each closed by the end token, padded on the right.
    """

    prompts: TokenBatch
    responses: TokenBatch


class PreferenceOptimization(SoundAutomaticSteps):
    """Trains a language model so that it prefers the chosen response of each pair, measured from where it started.

    The implicit reward of a response is ``beta`` times its log-ratio to the reference, which is the model before
    training: a frozen copy, or under LoRA the base below the adapter (the frozen adapter, where it started from one).

    Args:
        model_name_or_path: folder, ``.gguf`` file or hub name of the model, which is also the reference; an
            adapter's folder is trained on.
        loss: ``dpo``, ``ipo`` or ``kto``; see `tamis.functional`. All of them sum over a response's tokens.
        beta: how much a nat of difference from the reference counts; larger stays nearer to it.
        label_smoothing: share of wrong labels that DPO reckons with, in [0, 0.5).
        prompt_format: ``plain`` text, or ``chat`` for the tokenizer's chat template.
        max_length: longest prompt + response in tokens; longer responses are cut at the end, and so
            are those beyond the model's context.
        lora_rank: train a LoRA adapter of this rank instead of the whole model; 0 trains everything.
        gradient_checkpointing: keep little for the backward pass and compute it again.
        optimizer: of the model's parameters.
        schedule: how the learning rate moves after the warm-up.
        warmup_ratio: share of the steps in which the learning rate rises to its value.
    """

    def __init__(
        self,
        model_name_or_path: str,
        loss: PreferenceLoss = "dpo",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        prompt_format: PromptFormat = "plain",
        max_length: int = 1024,
        lora_rank: int = 0,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule = "linear",
        warmup_ratio: float = 0.03,
    ) -> None:
        super().__init__()
        if loss not in get_args(PreferenceLoss):
            raise ValueError(f"loss must be dpo, ipo or kto, got {loss!r}")
        check_beta(beta)
        check_label_smoothing(label_smoothing)
        if label_smoothing > 0 and loss != "dpo":
            raise ValueError(f"label_smoothing belongs to dpo, and {loss} has none; set it to 0")
        self.save_hyperparameters(ignore=["optimizer"])
        self.strict_loading = False  # the reference is loaded from where it came from, not from checkpoints
        self.preference_loss: PreferenceLoss = loss
        self.beta, self.label_smoothing = beta, label_smoothing
        self.prompt_format: PromptFormat = prompt_format
        self.optimizer, self.schedule, self.warmup_ratio = optimizer, schedule, warmup_ratio
        self.tokenizer = load_tokenizer(model_name_or_path)
        check_prompt_format(self.tokenizer, prompt_format, model_name_or_path)
        self.model = load_causal_lm(model_name_or_path, lora_rank, gradient_checkpointing=gradient_checkpointing)
        check_vocabulary(self.model, self.tokenizer, model_name_or_path)
        self.max_length = within_context(max_length, self.model)
        self.reference = make_reference(self.model, self.tokenizer, model_name_or_path, None, "float32")

    def log_ratios(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``[B]`` log-ratios of the chosen and of the rejected responses, both from one forward."""
        tokens = self._tokens(batch)
        log_probs = self._log_probs(self.model, tokens)
        chosen, rejected = response_log_ratios(log_probs, self._reference(tokens), tokens.responses.mask).chunk(2)
        return chosen, rejected

    def on_train_start(self) -> None:
        """Look at every prompt before the first is learned from.

        Raises:
            ValueError: for a prompt that is empty or leaves no room for a response.
        """
        self._prompts(records_of(self.trainer.train_dataloader))

    def configure_model(self) -> None:
        """Shard the networks where the trainer's strategy is FSDP2."""
        shard_networks(self, self.model, self.reference)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of a batch of pairs."""
        loss, metrics = self._loss(batch)
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on held-out pairs."""
        _, metrics = self._loss(batch)
        named = {f"val/{name}": value for name, value in metrics.items()}
        self.log_dict(named, prog_bar=True, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union
        """The optimiser with its schedule over the run's steps."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        steps = int(self.trainer.estimated_stepping_batches)
        return with_schedule(self.optimizer(trained), self.schedule, self.warmup_ratio, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the reference out: it is read from where it came from."""
        super().on_save_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith("reference.")}

    def export(self, folder: Path) -> None:
        """Write model and tokenizer as a folder for ``from_pretrained``.

        A sharded one is gathered first, for which every rank has to call this; rank 0 writes.
        """
        given = self.hparams
        model = gathered(self.model, lambda: load_causal_lm(given["model_name_or_path"], given["lora_rank"]))
        if model is not None:
            save_language_model(model, self.tokenizer, folder)

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = self.log_ratios(batch)
        if self.preference_loss == "dpo":
            loss = dpo_loss(chosen, rejected, self.beta, self.label_smoothing).mean()
        elif self.preference_loss == "ipo":
            loss = ipo_loss(chosen, rejected, self.beta).mean()
        else:
            loss = kto_loss(chosen, rejected, self.beta).mean()
        metrics = {
            "loss": loss,
            "accuracy": (chosen > rejected).float().mean(),
            "implicit_reward_chosen": self.beta * chosen.mean(),
            "implicit_reward_rejected": self.beta * rejected.mean(),
        }
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _prompts(self, batch: Batch) -> list[list[int]]:
        return check_room(self.tokenizer, batch, self.prompt_format, self.max_length)

    def _tokens(self, batch: Batch) -> PairTokens:
        prompts = self._prompts(batch) * 2
        responses = tokenize(
            self.tokenizer, [record["chosen"] for record in batch] + [record["rejected"] for record in batch]
        )
        end = [self.tokenizer.eos_token_id]
        cut = [
            (response + end)[: self.max_length - len(prompt)]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        sides = pad(prompts, self.tokenizer.pad_token_id, "left"), pad(cut, self.tokenizer.pad_token_id, "right")
        return PairTokens(*(TokenBatch(side.ids.to(self.device), side.mask.to(self.device)) for side in sides))

    def _log_probs(self, model: PreTrainedModel, tokens: PairTokens) -> Tensor:
        return score_actions(model, tokens.prompts, tokens.responses.ids, tokens.responses.mask, 1.0).log_probs

    @torch.no_grad()
    def _reference(self, tokens: PairTokens) -> Tensor:
        with reference_at_hand(self.model, self.reference, self.device) as reference:
            return self._log_probs(reference, tokens)
