"""Stop strings: golden cuts of raw generations, and rows that end where a slow loop over their texts ends them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tamis.generation import Samples, StopStrings, cut_at_stop, decode, row_noise, sample
from tamis.modules.language_model import load_causal_lm, load_tokenizer, pad, tokenize

HUMANEVAL = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]

# What models of this kind write after a prompt that ends in a docstring.
RAW = [
    ("    return a + b\n\n\ndef main():\n    pass\n", "    return a + b\n\n"),
    ("    if a:\n        # why\n        return b\n", "    if a:\n        # why\n        return b\n"),
    ("    return a\n# Test\nprint(f(1))\n", "    return a"),
    ("    return a\n\nif __name__ == '__main__':\n", "    return a\n"),
    ("\n\nclass A:\n    pass\n", "\n"),
    ("    defined = 1\n    return defined\nprint", "    defined = 1\n    return defined"),
    ("", ""),
]


@pytest.mark.parametrize(("raw", "expected"), RAW)
def test_the_text_ends_before_the_first_stop_string(raw: str, expected: str) -> None:
    assert cut_at_stop(raw, HUMANEVAL) == (expected, raw != expected)
    assert cut_at_stop(raw, HUMANEVAL[::-1])[0] == expected  # the order of the list says nothing
    assert cut_at_stop(raw, []) == (raw, False)


@pytest.mark.parametrize(("raw", "expected"), RAW)
def test_a_row_is_reached_at_the_token_that_completes_the_string(raw: str, expected: str, tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = torch.tensor(tokenize(tokenizer, [raw]))
    stops = StopStrings(tokenizer, [[], HUMANEVAL])
    for length in range(1, ids.shape[1] + 1):
        (text,) = decode(tokenizer, [ids[0, :length].tolist()])
        there = cut_at_stop(text, HUMANEVAL)[1]
        assert stops.reached([1], ids[:, :length]) == [there]
        assert stops.reached([0], ids[:, :length]) == [False]
        if there:
            break  # the row ends here


def test_strings_are_found_across_tokens_and_behind_long_texts(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    text = "    x = [1, 2]\n" * 20
    (before,) = tokenize(tokenizer, [text])
    letters = [token for row in tokenize(tokenizer, list("\ndef")) for token in row]
    assert len(letters) == 4  # one token a letter, so that the string lies across tokens
    stops = StopStrings(tokenizer, [["\ndef"]])
    found = [stops.reached([0], torch.tensor([before + letters[:length]])) for length in range(5)]
    assert found == [[False]] * 4 + [[True]]


def test_a_special_token_stops_too(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|other_end|>"]})
    ids = tokenize(tokenizer, ["return 1<|other_end|>"])
    assert decode(tokenizer, ids) == ["return 1"]  # there is no text to find it in
    tokens = torch.tensor(ids)
    assert StopStrings(tokenizer, [["<|other_end|>"]]).reached([0], tokens) == [True]
    assert StopStrings(tokenizer, [["<|other_end|>"]]).reached([0], tokens[:, :-1]) == [False]
    assert StopStrings(tokenizer, [["\ndef"]]).reached([0], tokens) == [False]


def test_an_empty_stop_string_is_refused(tiny_model: str) -> None:
    with pytest.raises(ValueError, match="empty stop string"):
        StopStrings(load_tokenizer(tiny_model), [["\ndef", ""]])


def _sample(model: Any, tokenizer: Any, prompts: list[str], keys: list[str], **options: Any) -> Samples:
    batch = pad(tokenize(tokenizer, prompts), tokenizer.pad_token_id, "left")
    return sample(
        model, batch.ids, batch.mask, max_new_tokens=40, eos_token_ids=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id, noise=row_noise(keys, 40), **options,
    )  # fmt: skip


def _rows(samples: Samples) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(samples.tokens, samples.response_mask, strict=True)]


def test_every_row_ends_at_its_own_string_and_at_no_others(tiny_model: str) -> None:
    """An untrained model writes anything; each row gets three letters of its own text as its stop string."""
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    prompts = ["def f(xs):\n", "def longer(name):\n    return", "x"]
    keys = [str(number) for number in range(12)]
    free = _sample(model, tokenizer, prompts, keys, num_samples=4)
    texts = decode(tokenizer, _rows(free))
    strings = [[] if row % 4 == 3 or len(text) < 30 else [text[20:23]] for row, text in enumerate(texts)]
    assert sum(bool(strings_) for strings_ in strings) >= 6
    stops = StopStrings(tokenizer, strings)
    stopped = _sample(model, tokenizer, prompts, keys, num_samples=4, stops=stops)
    for row, (ids, whole) in enumerate(zip(_rows(stopped), _rows(free), strict=True)):
        # The slow way: decode the free row token by token until the text holds the string.
        lengths = range(1, len(whole) + 1)
        ends = [n for n in lengths if cut_at_stop(decode(tokenizer, [whole[:n]])[0], strings[row])[1]]
        assert ids == (whole[: ends[0]] if ends else whole)
        assert bool(stopped.truncated[row]) == (bool(free.truncated[row]) and not ends)
        assert cut_at_stop(decode(tokenizer, [ids])[0], strings[row])[0] == cut_at_stop(texts[row], strings[row])[0]
    assert stopped.tokens.shape[1] == max(len(ids) for ids in _rows(stopped))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_company_and_order_change_no_draw(top_p: float, tiny_model: str) -> None:
    """With noise of its own a row is sampled alike in any batch: alone, in other company, at another place."""
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    prompts = ["def f(xs):\n", "def longer(name):\n    return", "x"]
    keys = [f"{prompt}/{number}" for prompt in prompts for number in range(2)]
    together = _rows(_sample(model, tokenizer, prompts, keys, num_samples=2, top_p=top_p))
    backwards = _rows(_sample(model, tokenizer, prompts[::-1], keys[::-1], num_samples=2, top_p=top_p))
    alone = [_rows(_sample(model, tokenizer, [prompts[i // 2]], [keys[i]], top_p=top_p))[0] for i in range(6)]
    assert together == backwards[::-1] == alone
    assert len({str(row) for row in together}) == 6
