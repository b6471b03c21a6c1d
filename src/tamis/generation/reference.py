"""Sampling through transformers' own ``generate``: slower, and right by definition where a model has habits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .choosing import Chooser
from .lockstep import check_equal_prompts
from .modes import generation_mode
from .sampling import Samples, check_request, noise_of
from .stopping import StopStrings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def sample_with_transformers(
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
    """The arguments, the result and the draws of `sample`; the loop, the cache and the end tokens of transformers.

    Whatever the model's folder says about generation (a nucleus, a repetition penalty) is left aside: rollouts come
    from the distribution that scoring sees.
    """
    check_request(prompt_mask, max_new_tokens, num_samples, eos_token_ids)
    if lockstep:
        check_equal_prompts(prompt_mask)
    ids, mask = (tensor.repeat_interleave(num_samples, 0) for tensor in (prompt_ids, prompt_mask))
    drawn = noise_of(len(ids), max_new_tokens, temperature, generator, noise, ids)
    choose = Chooser(temperature, top_p, drawn)
    tokens = torch.full((len(ids), max_new_tokens), pad_token_id, dtype=torch.int64, device=ids.device)
    lengths = torch.full((len(ids),), max_new_tokens, device=ids.device)
    for rows in torch.arange(len(ids), device=ids.device).split(max_rows or len(ids)):
        ends = _Ends(stops, rows.tolist(), ids.shape[1])
        with torch.no_grad(), generation_mode(model), _plain_generation(model) as causal:
            texts = causal.generate(
                ids[rows],
                attention_mask=mask[rows].long(),
                max_new_tokens=max_new_tokens,
                eos_token_id=list(eos_token_ids),
                pad_token_id=pad_token_id,
                do_sample=False,  # the processor below has drawn already
                logits_processor=[_Draw(choose, rows, ids.shape[1])],
                stopping_criteria=[ends],
                synced_gpus=lockstep,
            )[:, ids.shape[1] :]
        tokens[rows, : texts.shape[1]] = texts
        lengths[rows] = ends.lengths(texts, eos_token_ids, max_new_tokens)
    return _samples(tokens, lengths, pad_token_id, max_new_tokens)


def _samples(tokens: Tensor, lengths: Tensor, pad: int, limit: int) -> Samples:
    """Lengths beyond the limit say that no end came."""
    truncated = lengths > limit
    width = int(lengths.clamp(max=limit).max())
    response_mask = torch.arange(width, device=tokens.device) < lengths.unsqueeze(1)
    return Samples(torch.where(response_mask, tokens[:, :width], pad), response_mask, truncated)


class _Draw:
    """A logits processor that leaves one token of each row: the one that was drawn."""

    def __init__(self, choose: Chooser, rows: Tensor, start: int) -> None:
        self.choose, self.rows, self.start = choose, rows, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self.choose(scores, self.rows, input_ids.shape[1] - self.start).unsqueeze(1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class _Ends:
    """A stopping criterion that remembers where each row reached a stop string of its own."""

    def __init__(self, stops: StopStrings | None, rows: list[int], start: int) -> None:
        self.stops, self.rows, self.start = stops, rows, start
        self.stopped: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **_: object) -> Tensor:  # noqa: ANN401
        texts = input_ids[:, self.start :]
        if self.stops:
            for place, reached in enumerate(self.stops.reached(self.rows, texts)):
                if reached:
                    self.stopped.setdefault(place, texts.shape[1])
        done = torch.zeros(len(texts), dtype=torch.bool, device=texts.device)
        done[list(self.stopped)] = True
        return done

    def lengths(self, texts: Tensor, eos_token_ids: Sequence[int], limit: int) -> Tensor:
        """``[B]`` tokens up to the end token or the stop string; one more than the limit where neither came."""
        is_end = torch.isin(texts, torch.tensor(list(eos_token_ids), device=texts.device))
        first = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1) + 1, limit + 1)
        for place, length in self.stopped.items():
            first[place] = min(int(first[place]), length)
        return first


@contextmanager
def _plain_generation(model: Any) -> Iterator[Any]:  # noqa: ANN401
    """The language model inside an adapter, without settings of its own for generation."""
    from transformers import GenerationConfig

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = causal.generation_config
    causal.generation_config = GenerationConfig()
    try:
        yield causal
    finally:
        causal.generation_config = own
