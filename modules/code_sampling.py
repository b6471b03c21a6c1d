"""What a code policy does around its model: prompts in, texts out, and the rows' way back into tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..generation import Samples, StopStrings, decode, sample, sample_with_transformers
from ..rollout import Rollout
from .language_model import PromptFormat, TokenBatch, end_token_ids, pad
from .out_of_memory import RowsAtATime
from .prompts import PromptLimits, check_prompt_format, prompt_tokens
from .sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Generator = Literal["native", "transformers"]
Batch = Sequence[Mapping[str, Any]]


@dataclass
class Writer:
    """How prompts are put to a model and its responses are drawn.

    Args:
        tokenizer: of the model.
        prompt_format: how a prompt becomes the model's input.
        limits: what prompt and response must fit into.
        generator: which loop decodes.
        max_rows: responses decoded at a time; ``None`` decodes all at once. Should memory run out, it is halved, once.
    """

    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    limits: PromptLimits
    generator: Generator
    max_rows: int | None
    _rows: RowsAtATime = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a chat format that there is no template for."""
        ways_out = "num_samples, max_new_tokens or the batch, train a LoRA adapter (lora_rank), or set dtype: bfloat16"
        self._rows = RowsAtATime(self.max_rows, "sample_batch_size", "sampling", ways_out)
        check_prompt_format(self.tokenizer, self.prompt_format, self.tokenizer.name_or_path)

    def check(self, records: Batch) -> None:
        """Refuse prompts that are empty or too long.

        Raises:
            ValueError: naming the task.
        """
        prompt_tokens(self.tokenizer, records, self.prompt_format, self.limits)

    def prompts(self, batch: Batch, device: torch.device) -> TokenBatch:
        """The records' prompts as tokens, padded on the left."""
        rows = prompt_tokens(self.tokenizer, batch, self.prompt_format, self.limits)
        tokens = pad(rows, self.tokenizer.pad_token_id, "left")
        return TokenBatch(tokens.ids.to(device), tokens.mask.to(device))

    def sample(
        self,
        model: PreTrainedModel,
        prompts: TokenBatch,
        n: int,
        temperature: float,
        top_p: float = 1.0,
        noise: Tensor | None = None,
        stops: StopStrings | None = None,
    ) -> Samples:
        """N responses to every prompt, see `tamis.generation.sample`."""
        draw = sample if self.generator == "native" else sample_with_transformers

        def responses(max_rows: int | None) -> Samples:
            return draw(
                model,
                prompts.ids,
                prompts.mask,
                max_new_tokens=self.limits.max_new_tokens,
                eos_token_ids=end_token_ids(model, self.tokenizer),
                pad_token_id=self.tokenizer.pad_token_id,
                num_samples=n,
                temperature=temperature,
                top_p=top_p,
                noise=noise,
                stops=stops,
                max_rows=max_rows,
                lockstep=is_sharded(model),
            )

        least = n if self.generator == "native" else 1  # it keeps a prompt's samples together
        return self._rows.run(responses, len(prompts.ids) * n, least, model)

    def texts(self, samples: Samples) -> list[str]:
        """Texts by length, so that a pad token that equals the end token stays out."""
        lengths = samples.response_mask.sum(dim=1).tolist()
        return decode(
            self.tokenizer, [row[:length] for row, length in zip(samples.tokens.tolist(), lengths, strict=True)]
        )


def prompts_of(rollout: Rollout) -> TokenBatch:
    """The prompts that a rollout's rows answer."""
    return TokenBatch(rollout.observations["prompt_ids"], rollout.observations["prompt_mask"])


def with_completions(batch: Batch, completions: Sequence[str], n: int) -> list[dict[str, Any]]:
    """A record of its own for each of the N completions of every task."""
    return [{**batch[index // n], "completion": completion} for index, completion in enumerate(completions)]
