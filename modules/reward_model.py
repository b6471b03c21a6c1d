"""A Bradley-Terry reward model on preference pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ..functional import bradley_terry_loss
from ..generation.modes import evaluation_mode
from .code_evaluation import gather
from .language_model import (
    Precision,
    PromptFormat,
    TokenBatch,
    check_vocabulary,
    format_prompts,
    load_tokenizer,
    pad,
    tokenize,
)
from .model_errors import reading
from .pair_metrics import PairScore, each_pair_once, measure_pairs, pair_scores
from .prompts import check_prompt_format, records_of
from .scalar_head import ScalarHeadModel
from .schedules import Schedule, with_schedule
from .sound_steps import SoundAutomaticSteps

Batch = Sequence[Mapping[str, Any]]

_SETTINGS_FILE = "reward_model.json"
_NORMALISATION = "reward_normalisation"
# Without held-out pairs the constants come from at most so many training pairs: enough for an error of some 3 % of the
# scores' spread, and seconds or minutes where a whole training set would be another third of an epoch.
_NORMALISATION_PAIRS = 1024


class RewardSettings(NamedTuple):
    """How a saved reward model reads texts.

    Args:
        prompt_format: that it was trained with.
        max_length: longest prompt + response in tokens.
    """

    prompt_format: PromptFormat = "plain"
    max_length: int = 1024


def saved_settings(model_name_or_path: str) -> RewardSettings:
    """How the reward model in a folder was trained to read texts, so that whoever scores with it reads alike."""
    file = Path(model_name_or_path) / _SETTINGS_FILE
    if not file.is_file():
        return RewardSettings()
    with reading(model_name_or_path, _SETTINGS_FILE):
        return RewardSettings(**json.loads(file.read_text()))


class RewardModel(SoundAutomaticSteps):
    """Scores a response to a prompt; trained so that the chosen response of a pair scores above the rejected one.

    `score` is the only way in: training, PPO, evaluation and analysis all call it.

    Mean and standard deviation of the scores, by which rewards are normalised later, are those of the held-out
    responses at each validation. Without held-out pairs, or where steps followed the last validation, they are measured
    on up to 1024 training pairs at the epoch's end. They are part of checkpoints and of the exported folder.

    Args:
        model_name_or_path: a language model to start from, or a reward model written by an earlier run.
        prompt_format: ``plain`` text, or ``chat`` for the tokenizer's chat template.
        max_length: longest prompt + response in tokens; longer prompts lose their beginning.
        margin: by how much the chosen response is to score above the rejected one; a pair with a ``margin`` of its own
            in its row has that instead.
        centring: weight of the squared sum of a pair's scores in the loss, which holds scores around 0 and changes
            no order; 0.01 is usual.
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
        margin: float = 0.0,
        centring: float = 0.0,
        dtype: Precision = "float32",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule = "linear",
        warmup_ratio: float = 0.03,
    ) -> None:
        super().__init__()
        for name, value in (("margin", margin), ("centring", centring)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}; 0 leaves it out")
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1 token, got {max_length}")
        self.save_hyperparameters(ignore=["optimizer"])
        self.prompt_format: PromptFormat = prompt_format
        self.max_length, self.margin, self.centring = max_length, margin, centring
        self.optimizer, self.schedule, self.warmup_ratio = optimizer, schedule, warmup_ratio
        self.tokenizer = load_tokenizer(model_name_or_path)
        check_prompt_format(self.tokenizer, prompt_format, model_name_or_path)
        self.model = ScalarHeadModel.from_pretrained(model_name_or_path, dtype)
        check_vocabulary(self.model.trunk, self.tokenizer, model_name_or_path)
        self._held_out: list[PairScore] = []
        self._normalised_at = -1  # the step whose weights the constants were measured with

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """``[B]`` raw scores: the head's number at the end token that closes each response.

        Every response is closed by the end token, also one that was cut off, so that the score is always read from the
        same kind of place.
        """
        return self._read(self._tokens(prompts, responses))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Bradley-Terry loss of a batch of pairs, both sides in one forward."""
        chosen, rejected = self._score_pairs(batch)
        loss = bradley_terry_loss(chosen, rejected, self._margins(batch), self.centring)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        self.log("train/accuracy", (chosen > rejected).float().mean(), batch_size=len(batch))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._held_out = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score held-out pairs."""
        self._held_out += pair_scores(batch, *self._score_pairs(batch), self._margins(batch))

    def on_validation_epoch_end(self) -> None:
        """Measure all held-out pairs of all ranks at once, each once: a mean over batches has no AUC or spread."""
        pairs = each_pair_once(gather(self._held_out))
        if not pairs:
            return
        for name, value in measure_pairs(pairs, self.centring).items():
            shown = name in ("loss", "accuracy")
            self.log(f"val/{name}", value, prog_bar=shown, batch_size=len(pairs), sync_dist=True)  # on all ranks equal
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._set_normalisation([score for pair in pairs for score in (pair.chosen, pair.rejected)])

    def on_train_epoch_end(self) -> None:
        """Have the constants fit the weights before a checkpoint is written."""
        self._measure_normalisation()

    def on_train_end(self) -> None:
        """The same for training that was ended inside an epoch."""
        self._measure_normalisation()
        rank_zero_info(
            f"Reward normalisation: mean {self.model.reward_mean:.3f}, standard deviation {self.model.reward_std:.3f}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the normalisation constants."""
        super().on_save_checkpoint(checkpoint)
        constants = {"mean": self.model.reward_mean, "std": self.model.reward_std}
        checkpoint[_NORMALISATION] = constants | {"measured_at": self._normalised_at}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the normalisation constants back."""
        super().on_load_checkpoint(checkpoint)
        constants = checkpoint.get(_NORMALISATION)
        if constants is None:
            rank_zero_warn("this checkpoint holds no reward normalisation; train or export again to have it measured")
            return
        self.model.reward_mean, self.model.reward_std = float(constants["mean"]), float(constants["std"])
        self._normalised_at = int(constants.get("measured_at", -1))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union
        """The optimiser with its schedule over the run's steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        return with_schedule(self.optimizer(self.model.parameters()), self.schedule, self.warmup_ratio, steps)

    def export(self, folder: Path) -> None:
        """Write trunk, head, normalisation constants, how texts are read, and tokenizer into a folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        settings = RewardSettings(self.prompt_format, self.max_length)
        (folder / _SETTINGS_FILE).write_text(json.dumps(settings._asdict(), indent=2) + "\n")

    @torch.no_grad()
    def _measure_normalisation(self) -> None:
        """Score training pairs, evenly spread over the data and the ranks, unless the constants are fresh."""
        if self._normalised_at == self.trainer.global_step:
            return
        from tqdm import tqdm

        loader = self.trainer.train_dataloader
        records = records_of(loader)  # not the loader: an epoch of it would change the order of the next one
        records = records[:: -(-len(records) // _NORMALISATION_PAIRS) or 1][self.global_rank :: self.trainer.world_size]
        size = getattr(loader, "batch_size", None) or 16
        quiet = self.trainer.progress_bar_callback is None or self.global_rank > 0
        scores: list[float] = []
        with evaluation_mode(self):
            for start in tqdm(range(0, len(records), size), "Reward normalisation", leave=False, disable=quiet):
                scores += torch.cat(self._score_pairs(records[start : start + size])).tolist()
        self._set_normalisation([score for part in gather(scores) for score in part])

    def _set_normalisation(self, scores: Sequence[float]) -> None:
        values = torch.tensor(scores, dtype=torch.float64)
        if not len(values) or not bool(values.isfinite().all()):
            rank_zero_warn(
                f"the reward's normalisation stays at mean {self.model.reward_mean:.3f} and standard deviation "
                f"{self.model.reward_std:.3f}: the scores of {len(values)} responses are "
                f"{'not all finite' if len(values) else 'too few to measure it'}"
            )
            return
        self.model.reward_mean = float(values.mean())
        self.model.reward_std = float(values.std(correction=0)) or 1.0
        self._normalised_at = self.trainer.global_step

    def _score_pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        prompts = [record["prompt"] for record in batch]
        responses = [record["chosen"] for record in batch] + [record["rejected"] for record in batch]
        chosen, rejected = self.score(prompts * 2, responses).chunk(2)
        return chosen, rejected

    def _margins(self, batch: Batch) -> Tensor:
        return torch.tensor([float(record.get("margin", self.margin)) for record in batch], device=self.device)

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
