"""A Bradley-Terry reward model on preference pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..functional import bradley_terry_loss
from .language_model import Precision, PromptFormat, TokenBatch, format_prompts, load_tokenizer, pad, tokenize
from .scalar_head import ScalarHeadModel
from .schedules import Schedule, with_schedule


class RewardModel(LightningModule):
    """Scores a response to a prompt; trained so that the chosen response of a pair scores above the rejected one.

    `score` is the only way in: training, PPO, evaluation and analysis all call it.

    Args:
        model_name_or_path: a language model to start from, or a reward model written by an earlier run.
        prompt_format: ``plain`` text, or ``chat`` for the tokenizer's chat template.
        max_length: longest prompt + response in tokens; longer prompts lose their beginning.
        dtype: of the transformer's weights; the head's are in fp32. ``bfloat16`` is for scoring, training wants fp32.
        optimizer: of all parameters.
        schedule: how the learning rate moves after the warm-up.
        warmup_ratio: share of the steps in which the learning rate rises to its value.
    """

    def __init__(
        self,
        model_name_or_path: str,
        prompt_format: PromptFormat = "plain",
        max_length: int = 1024,
        dtype: Precision = "float32",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule = "linear",
        warmup_ratio: float = 0.03,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.prompt_format: PromptFormat = prompt_format
        self.max_length = max_length
        self.optimizer, self.schedule, self.warmup_ratio = optimizer, schedule, warmup_ratio
        self.tokenizer = load_tokenizer(model_name_or_path)
        self.model = ScalarHeadModel.from_pretrained(model_name_or_path, dtype)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """``[B]`` raw scores: the head's number at the end token that closes each response.

        Every response is closed by the end token, also one that was cut off, so that the score is always read from the
        same kind of place.
        """
        return self._read(self._tokens(prompts, responses))

    def training_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> Tensor:
        """Bradley-Terry loss of a batch of pairs, both sides in one forward."""
        chosen, rejected = self._score_pairs(batch)
        loss = bradley_terry_loss(chosen, rejected)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        self.log("train/accuracy", (chosen > rejected).float().mean(), batch_size=len(batch))
        return loss

    def validation_step(self, batch: Sequence[Mapping[str, Any]], batch_idx: int) -> None:
        """Loss and accuracy on held-out pairs."""
        chosen, rejected = self._score_pairs(batch)
        metrics = {
            "val/loss": bradley_terry_loss(chosen, rejected),
            "val/accuracy": (chosen > rejected).float().mean(),
        }
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch), sync_dist=True)

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Measure mean and spread of the scores on the training pairs, for normalising rewards later."""
        loader = self.trainer.train_dataloader
        if loader is None:
            return
        self.eval()
        scores = torch.cat([torch.cat(self._score_pairs(batch)) for batch in loader])
        self.model.reward_mean = float(scores.mean())
        self.model.reward_std = float(scores.std(correction=0)) or 1.0
        rank_zero_info(
            f"Reward normalisation from {len(scores)} training responses: "
            f"mean {self.model.reward_mean:.3f}, standard deviation {self.model.reward_std:.3f}"
        )

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union
        """The optimiser with its schedule over the run's steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        return with_schedule(self.optimizer(self.model.parameters()), self.schedule, self.warmup_ratio, steps)

    def export(self, folder: Path) -> None:
        """Write trunk, head, normalisation constants and tokenizer into a folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _score_pairs(self, batch: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        prompts = [record["prompt"] for record in batch]
        responses = [record["chosen"] for record in batch] + [record["rejected"] for record in batch]
        chosen, rejected = self.score(prompts * 2, responses).chunk(2)
        return chosen, rejected

    def _tokens(self, prompts: Sequence[str], responses: Sequence[str]) -> TokenBatch:
        prompt_ids = tokenize(self.tokenizer, format_prompts(self.tokenizer, prompts, self.prompt_format))
        response_ids = tokenize(self.tokenizer, responses)
        end = [self.tokenizer.eos_token_id]
        rows = [
            (prompt + response + end)[-self.max_length :]
            for prompt, response in zip(prompt_ids, response_ids, strict=True)
        ]
        return pad(rows, self.tokenizer.pad_token_id, "left")

    def _read(self, tokens: TokenBatch) -> Tensor:
        """Rows are padded on the left, so every row's end token stands in the last column."""
        on_device = TokenBatch(tokens.ids.to(self.device), tokens.mask.to(self.device))
        scores: Tensor = self.model(on_device)[:, -1]
        return scores
