"""Supervised fine-tuning of a language model on prompt-completion pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional as F

from .adapters import TRAINED, check_export, check_trained_weights, without_frozen
from .language_model import (
    PromptFormat,
    format_prompts,
    load_causal_lm,
    load_tokenizer,
    pad,
    save_language_model,
    tokenize,
)
from .prompts import check_prompt_format, check_room, records_of, within_context
from .schedules import Schedule, with_schedule
from .sharding import gathered, shard_networks
from .sound_steps import SoundAutomaticSteps


class SupervisedFineTuning(SoundAutomaticSteps):
    """Next-token training on the completions; prompts are read, not learned.

    Args:
        model_name_or_path: folder, ``.gguf`` file or hub name of a causal language model.
        prompt_format: ``plain`` text, or ``chat`` for the tokenizer's chat template.
        max_length: longest prompt + completion in tokens; longer pairs are cut at the end, and so are
            those beyond the model's context.
        lora_rank: train a LoRA adapter of this rank instead of the whole model; 0 trains everything.
        merge_adapter: export the base with the adapter in its weights; ``False`` exports the adapter alone, which
            names the place of its base. A policy that starts from that has the adapter as its reference.
        optimizer: of the model's parameters.
        schedule: how the learning rate moves after the warm-up.
        warmup_ratio: share of the steps in which the learning rate rises to its value.
    """

    def __init__(
        self,
        model_name_or_path: str,
        prompt_format: PromptFormat = "plain",
        max_length: int = 1024,
        lora_rank: int = 0,
        merge_adapter: bool = True,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule = "linear",
        warmup_ratio: float = 0.03,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.prompt_format: PromptFormat = prompt_format
        self.optimizer, self.schedule, self.warmup_ratio = optimizer, schedule, warmup_ratio
        self.tokenizer = load_tokenizer(model_name_or_path)
        check_prompt_format(self.tokenizer, prompt_format, model_name_or_path)
        self.merge_adapter = merge_adapter
        self.model = load_causal_lm(model_name_or_path, lora_rank)
        check_export(self.model, merge_adapter)
        self.max_length = within_context(max_length, self.model)
        self.strict_loading = False  # checkpoints hold what is trained

    def on_train_start(self) -> None:
        """Look at every prompt before the first is learned from.

        Raises:
            ValueError: for a prompt that leaves no room for a completion.
        """
        check_room(self.tokenizer, records_of(self.trainer.train_dataloader), self.prompt_format, self.max_length)

    def configure_model(self) -> None:
        """Shard the networks where the trainer's strategy is FSDP2."""
        shard_networks(self, self.model)

    def training_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> Tensor:
        """Mean cross-entropy of the completions' tokens."""
        loss, _ = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> None:
        """The same on held-out pairs."""
        loss, tokens = self._loss(batch)
        self.log("val/loss", loss, prog_bar=True, batch_size=tokens, sync_dist=True)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union
        """The optimiser with its schedule over the run's steps."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        steps = int(self.trainer.estimated_stepping_batches)
        return with_schedule(self.optimizer(trained), self.schedule, self.warmup_ratio, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained: of a LoRA run the adapter only."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = without_frozen(self, checkpoint["state_dict"])
        checkpoint[TRAINED] = list(checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another kind of run."""
        super().on_load_checkpoint(checkpoint)
        check_trained_weights(self, checkpoint, "model.")

    def export(self, folder: Path) -> None:
        """Write model (or its adapter) and tokenizer as a folder for ``from_pretrained``.

        A sharded one is gathered first, for which every rank has to call this; rank 0 writes.
        """
        given = self.hparams
        model = gathered(self.model, lambda: load_causal_lm(given["model_name_or_path"], given["lora_rank"]))
        if model is not None:
            save_language_model(model, self.tokenizer, folder, self.merge_adapter)

    def _loss(self, batch: Sequence[Mapping[str, Any]]) -> tuple[Tensor, int]:
        prompts = format_prompts(self.tokenizer, [record["prompt"] for record in batch], self.prompt_format)
        prompt_ids = tokenize(self.tokenizer, prompts)
        completion_ids = tokenize(self.tokenizer, [record["completion"] for record in batch])
        rows = [
            (prompt + completion + [self.tokenizer.eos_token_id])[: self.max_length]
            for prompt, completion in zip(prompt_ids, completion_ids, strict=True)
        ]
        tokens = pad(rows, self.tokenizer.pad_token_id, "right")
        starts = torch.tensor([len(prompt) for prompt in prompt_ids]).unsqueeze(1)
        learned = (tokens.mask & (torch.arange(tokens.ids.shape[1]) >= starts)).to(self.device)
        ids, mask = tokens.ids.to(self.device), tokens.mask.to(self.device)
        logits = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1]
        targets = torch.where(learned, ids, -100)[:, 1:]
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)
        return loss, int(learned.sum())
