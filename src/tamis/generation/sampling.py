"""A small decoding loop: prompts are prefilled once, finished rows leave the batch.

For many short samples of few prompts this is several times faster than a general-purpose ``generate``: the N samples of
a prompt share its prefill, nothing but the cache and the last logits is kept, and no row is decoded past its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .choosing import Chooser
from .lockstep import check_equal_prompts, left_anywhere
from .modes import generation_mode
from .prefill import by_length, prefill
from .stopping import StopStrings

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Dropping rows copies the cache; it pays once this share of the rows is done.
_DROP_SHARE = 0.125


class Samples(NamedTuple):
    """Sampled responses of P prompts, N each; row ``p * N + n`` is sample n of prompt p.

    Args:
        tokens: ``[P * N, T]`` token ids, ending in an end token or in a stop string unless truncated; padding holds
            the pad id.
        response_mask: ``[P * N, T]`` bool, True for every sampled token, the last one included.
        truncated: ``[P * N]`` bool, True where no end came within the limit.
    """

    tokens: Tensor
    response_mask: Tensor
    truncated: Tensor


def sample(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    stops: StopStrings | None = None,
    max_rows: int | None = None,
    lockstep: bool = False,
) -> Samples:
    """Sample at a temperature from the full softmax or a nucleus of it, or greedily at temperature 0.

    For the time of the call the model is in evaluation mode, its cache on and gradient checkpointing off; it is left as
    it was found, also after an exception.

    Args:
        model: any decoder-only model of transformers.
        prompt_ids: ``[P, L]`` token ids, padded on the left.
        prompt_mask: ``[P, L]`` True where a token is real.
        max_new_tokens: longest response, in tokens.
        eos_token_ids: tokens that end a response.
        pad_token_id: fills rows after their end.
        num_samples: N, responses a prompt; 1 for greedy decoding.
        temperature: logits are divided by it.
        top_p: draw from the smallest set of most likely tokens that together have this probability.
        generator: on the model's device; makes the draw reproducible.
        noise: ``[P * N, max_new_tokens]`` numbers of `row_noise` instead of the generator's, so that no row's draw
            depends on the rows beside it.
        stops: stop strings of each of the P * N rows; a row ends with the token that completes one of its own.
        max_rows: rows decoded at a time, at least those of one prompt; prompts of similar length go together, so that
            little is spent on padding. ``None`` decodes all at once. It changes no row's draw.
        lockstep: every process runs as many forwards as the one with the longest rows, as a model must have it whose
            weights are sharded among them. It changes no row's draw.

    Raises:
        ValueError: on a prompt that is not padded on the left, sizes that make no sense, or processes in lockstep that
            have different numbers of prompts.
    """
    check_request(prompt_mask, max_new_tokens, num_samples, eos_token_ids)
    if lockstep:
        check_equal_prompts(prompt_mask)
    rows = len(prompt_ids) * num_samples
    choose = Chooser(temperature, top_p, noise_of(rows, max_new_tokens, temperature, generator, noise, prompt_ids))
    responses = _Responses.empty(rows, max_new_tokens, pad_token_id, prompt_ids.device)
    with torch.no_grad(), generation_mode(model):
        for prompts in by_length(prompt_mask, None if max_rows is None else max_rows // num_samples):
            mask = prompt_mask[prompts]
            width = int(mask.sum(dim=1).max())
            mask = mask[:, -width:]
            logits, cache = prefill(model, prompt_ids[prompts, -width:], mask)
            cache.batch_repeat_interleave(num_samples)
            numbers = (prompts.unsqueeze(1) * num_samples + torch.arange(num_samples, device=prompts.device)).flatten()
            rows_mask = mask.repeat_interleave(num_samples, 0)
            decoder = _Decoder(model, cache, rows_mask, numbers, eos_token_ids, lockstep)
            decoder.run(logits.repeat_interleave(num_samples, 0), responses, choose, stops)
    return responses.samples()


def check_request(prompt_mask: Tensor, max_new_tokens: int, num_samples: int, eos_token_ids: Sequence[int]) -> None:
    """What every way of sampling asks of its arguments.

    Raises:
        ValueError: on a prompt that is not padded on the left, or sizes that make no sense.
    """
    if max_new_tokens < 1 or num_samples < 1 or not eos_token_ids:
        raise ValueError(
            "sampling needs max_new_tokens >= 1, num_samples >= 1 and an end token, got "
            f"{max_new_tokens}, {num_samples}, {list(eos_token_ids)}"
        )
    if not bool(prompt_mask[:, -1].all()):
        raise ValueError("prompts must be padded on the left: the last column of prompt_mask has to be all True")


def noise_of(
    rows: int, length: int, temperature: float, generator: torch.Generator | None, noise: Tensor | None, like: Tensor
) -> Tensor | None:
    """The numbers that are drawn by: those given, or the generator's; none for greedy decoding."""
    if noise is not None:
        return noise.to(like.device)
    if temperature == 0:
        return None
    return torch.rand(rows, length, generator=generator, dtype=torch.float64, device=like.device)


class _Responses(NamedTuple):
    """The responses while they grow; every row of every bucket has its place."""

    tokens: Tensor
    mask: Tensor
    truncated: Tensor

    @classmethod
    def empty(cls, rows: int, length: int, pad: int, device: torch.device) -> _Responses:
        tokens = torch.full((rows, length), pad, dtype=torch.int64, device=device)
        return cls(
            tokens, torch.zeros_like(tokens, dtype=torch.bool), torch.ones(rows, dtype=torch.bool, device=device)
        )

    def samples(self) -> Samples:
        """Without the columns behind the longest response."""
        width = int(self.mask.any(dim=0).sum())
        return Samples(self.tokens[:, :width], self.mask[:, :width], self.truncated)


class _Decoder:
    """The state of one decoding loop: which response each row of the shrinking batch belongs to."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: DynamicCache,
        mask: Tensor,
        rows: Tensor,
        eos_token_ids: Sequence[int],
        lockstep: bool,
    ) -> None:
        self.model, self.cache, self.mask, self.rows, self.lockstep = model, cache, mask.long(), rows, lockstep
        self.eos = torch.tensor(list(eos_token_ids), device=mask.device)
        self.done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)

    def run(self, logits: Tensor, responses: _Responses, choose: Chooser, stops: StopStrings | None) -> None:
        """Decode until every row has ended or the limit is reached."""
        limit = responses.tokens.shape[1]
        for step in range(limit):
            chosen = choose(logits, self.rows, step)
            live = ~self.done
            responses.tokens[self.rows[live], step] = chosen[live]
            responses.mask[self.rows[live], step] = True
            self.done |= torch.isin(chosen, self.eos)
            if stops:
                self._stop(stops, responses.tokens[:, : step + 1])
            responses.truncated[self.rows[self.done]] = False
            left = (~self.done).sum()
            remaining = int(left)  # the loop's one host sync, but for stop strings and lockstep
            if step + 1 == limit or not (left_anywhere(left) if self.lockstep else remaining):
                break
            if len(self.rows) - remaining >= _DROP_SHARE * len(self.rows):
                chosen = chosen[self._drop_done()]
            logits = self._next_logits(chosen)

    def _stop(self, stops: StopStrings, tokens: Tensor) -> None:
        """Mark the live rows that have reached a stop string as done."""
        live = (~self.done).nonzero().squeeze(1)
        rows = self.rows[live]
        if len(rows):
            reached = stops.reached(rows.tolist(), tokens[rows])
            self.done[live] = torch.tensor(reached, device=self.done.device)

    def _drop_done(self) -> Tensor:
        kept = (~self.done).nonzero().squeeze(1)
        if not len(kept):  # other processes have rows yet: one of ours stands in for what they wait for
            kept = torch.zeros_like(self.rows[:1])
        self.cache.batch_select_indices(kept)
        self.mask, self.rows, self.done = self.mask[kept], self.rows[kept], self.done[kept]
        return kept

    def _next_logits(self, chosen: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        output = self.model(
            input_ids=chosen.unsqueeze(1),
            attention_mask=self.mask,
            position_ids=self.mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits
