"""Stop strings, each row its own: they end a row while it is decoded, and its text is cut before the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens looked at beyond those that a stop string can span: a special token among them has no text.
_MARGIN = 8


class StopStrings:
    """Tells which rows have reached one of their stop strings, also one that lies across tokens.

    Only the last tokens are decoded at each step, as many as the longest string has bytes: 64 rows cost less than a
    millisecond. ``StopStringCriteria`` of transformers has one list for the whole batch and needs a second to prepare
    each list for a vocabulary of 49,152 tokens.

    Args:
        tokenizer: the one that decodes the rows.
        stops: the strings of each row; a row without any ends at an end token only.

    Raises:
        ValueError: for an empty string, which every text contains.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[Sequence[str]]) -> None:
        if any(not stop for strings in stops for stop in strings):
            raise ValueError("an empty stop string would end every text at once; leave it out")
        self.tokenizer, self.stops = tokenizer, stops
        added = tokenizer.get_added_vocab()
        # A special token has no text to be found in, for instance the <|endoftext|> of another model family.
        self.token_ids = [{added[stop] for stop in strings if stop in added} for strings in stops]
        self.window = max((len(stop.encode()) for strings in stops for stop in strings), default=0) + _MARGIN

    def __bool__(self) -> bool:
        return any(self.stops)

    def reached(self, rows: Sequence[int], tokens: Tensor) -> list[bool]:
        """Which of these rows have just reached a stop string.

        Args:
            rows: ``[B]`` the rows' numbers.
            tokens: ``[B, T]`` all tokens of these rows so far.
        """
        tails = tokens[:, -self.window :].tolist()
        texts = decode(self.tokenizer, tails)
        return [
            tail[-1] in self.token_ids[row] or (_contains(text, self.stops[row]) and self._whole(row, ids))
            for row, tail, text, ids in zip(rows, tails, texts, tokens, strict=True)
        ]

    def _whole(self, row: int, ids: Tensor) -> bool:
        """The text as a whole has the last word: a tokenizer may decode the beginning of a text in a way of its own."""
        return _contains(decode(self.tokenizer, [ids.tolist()])[0], self.stops[row])


def decode(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """Texts without special tokens, spaces as they are."""
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _contains(text: str, stops: Sequence[str]) -> bool:
    return any(stop in text for stop in stops)
