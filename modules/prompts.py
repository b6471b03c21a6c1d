"""Prompts as tokens, and what they must fit into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .language_model import PromptFormat, format_prompts, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptLimits:
    """How long a prompt may be.

    Args:
        max_prompt_tokens: the user's own limit.
        max_new_tokens: what a response may add.
        context: positions that the model knows; ``None`` for a model without such a limit.
    """

    max_prompt_tokens: int
    max_new_tokens: int
    context: int | None

    def check(self, task: str, length: int) -> None:
        """Refuse a prompt that is empty or too long.

        Args:
            task: its name and place, for the message.
            length: of its prompt in tokens.

        Raises:
            ValueError: naming the task, the lengths and the way out.
        """
        if not 0 < length <= self.max_prompt_tokens:
            raise ValueError(
                f"the prompt of {task} has {length} tokens; it must have between 1 and "
                f"max_prompt_tokens={self.max_prompt_tokens}. Raise the limit or drop the task."
            )
        if self.context is not None and length + self.max_new_tokens > self.context:
            raise ValueError(
                f"the prompt of {task} has {length} tokens, which with max_new_tokens={self.max_new_tokens} "
                f"are more than the {self.context} positions that the model knows. Drop the task (max_prompt_tokens="
                f"{max(self.context - self.max_new_tokens, 0)} would find them all), lower max_new_tokens, or take a "
                "model with a longer context."
            )


def context_length(model: PreTrainedModel) -> int | None:
    """Positions that the model was made for; ``None`` where its configuration names none."""
    length = getattr(model.config, "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def within_context(max_length: int, model: PreTrainedModel) -> int:
    """The length to cut at: the user's, and no more than the model has positions for.

    Raises:
        ValueError: for a length that leaves no room for a prompt and a response.
    """
    if max_length < 2:
        raise ValueError(
            f"max_length must be at least 2 tokens, one of a prompt and one of a response, got {max_length}"
        )
    return min(max_length, context_length(model) or max_length)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Mapping[str, Any]],
    prompt_format: PromptFormat,
    limits: PromptLimits,
) -> list[list[int]]:
    """Token ids of each record's prompt.

    Raises:
        ValueError: for a prompt that is empty or too long.
    """
    texts = format_prompts(tokenizer, [record["prompt"] for record in records], prompt_format)
    rows = tokenize(tokenizer, texts)
    for record, row in zip(records, rows, strict=True):
        limits.check(named(record), len(row))
    return rows


def check_room(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Mapping[str, Any]],
    prompt_format: PromptFormat,
    max_length: int,
) -> list[list[int]]:
    """Token ids of each prompt of demonstrations or pairs, which must leave room for what is to be learned.

    Raises:
        ValueError: naming the row, the lengths and the way out.
    """
    texts = format_prompts(tokenizer, [record["prompt"] for record in records], prompt_format)
    rows = tokenize(tokenizer, texts)
    for record, row in zip(records, rows, strict=True):
        if not 0 < len(row) < max_length:
            raise ValueError(
                f"the prompt of {named(record)} has {len(row)} tokens; it must have at least 1 and leave room for a "
                f"response within max_length={max_length}. Raise max_length, as far as the model's context goes, or "
                "drop the row."
            )
    return rows


def named(record: Mapping[str, Any]) -> str:
    """A record's task_id and its place in a file, as far as it has them."""
    task = record.get("task")
    place = record.get("_source") or (task.get("_source") if isinstance(task, Mapping) else None)
    name = None if record.get("task_id") in (None, place) else f"task {record['task_id']!r}"
    return " ".join(part for part in (name, place and (f"({place})" if name else place)) if part) or "a row"


def check_prompt_format(tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, name: str) -> None:
    """Refuse ``chat`` without a chat template when a module is made, not at its first batch.

    Raises:
        ValueError: naming the model.
    """
    if prompt_format == "chat" and not tokenizer.chat_template:
        raise ValueError(
            f"prompt_format: chat needs a tokenizer with a chat template, and that of {name} has none; set "
            "prompt_format: plain, or take a model that was tuned for chat"
        )


def records_of(loader: Any) -> list[Mapping[str, Any]]:  # noqa: ANN401 - whatever the trainer was given
    """All records with a prompt that a loader can give, as far as they can be looked at without drawing from it."""
    dataset: Any = getattr(loader, "dataset", None)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return []
    records = [dataset[index] for index in range(len(dataset))]
    return [record for record in records if isinstance(record, Mapping) and "prompt" in record]


def sample_keys(run: str, prompts: int, samples: int, rank: int, ranks: int) -> list[str]:
    """One key a sample, made of its number in the batch of all ranks, to which prompts are dealt in turn.

    Args:
        run: what tells one batch from another.
        prompts: on this rank.
        samples: N, of each prompt.
        rank: number of this process.
        ranks: how many there are.
    """
    return [f"act/{run}/{row * ranks + rank}/{sample}" for row in range(prompts) for sample in range(samples)]


def check_training_draws(temperature: float, top_p: float, allowed: bool) -> None:
    """Refuse to learn from draws that scoring would take for others.

    Raises:
        ValueError: naming the option.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive to sample, got {temperature}; greedy is for evaluation only")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie above 0 and at most at 1 (all tokens), got {top_p}")
    if top_p < 1 and not allowed:
        raise ValueError(
            f"top_p={top_p} draws from another distribution than the one that log-probabilities, ratio and KL are "
            "taken of; set it to 1, or set `--model.allow_off_policy_sampling=true` to have it all the same"
        )
