"""A language model with one number a token: reward models and critics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .language_model import Precision, TokenBatch, checkpoint_layers, disable_dropout, load_trunk, padding_last, scatter
from .model_errors import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEAD_FILE = "scalar_head.safetensors"
_CONFIG_FILE = "scalar_head.json"


class ValueHead(nn.Module):
    """A two-layer critic on hidden states, in fp32; its last layer starts at zero, so V = 0 before training.

    Args:
        hidden_size: width of the hidden states.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 1))
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., H]`` hidden states to ``[...]`` values."""
        with torch.autocast(hidden.device.type, enabled=False):  # a trainer's bf16-mixed would round the values
            values: Tensor = self.layers(hidden.float()).squeeze(-1)
        return values.clone()  # no view: FSDP2 hangs the backward pass on what a module returns


class ScalarHeadModel(nn.Module):
    """A transformer trunk with a linear fp32 head that gives every token a number.

    Args:
        trunk: a model of transformers without its language-model head.
        reward_mean: mean of the raw scores on reference responses; subtracted by ``normalise``.
        reward_std: their standard deviation.

    Attributes:
        has_trained_head: False for a head that starts at zero; True for one that was saved.
    """

    def __init__(self, trunk: PreTrainedModel, reward_mean: float = 0.0, reward_std: float = 1.0) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(int(trunk.config.hidden_size), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.reward_mean, self.reward_std = reward_mean, reward_std
        self.has_trained_head = False

    @classmethod
    def from_pretrained(
        cls, model_name_or_path: str, dtype: Precision = "float32", gradient_checkpointing: bool = False
    ) -> ScalarHeadModel:
        """Load a folder written by `save_pretrained`; from a plain language model the head starts at zero.

        Args:
            model_name_or_path: a folder (also of an adapter), a ``.gguf`` file or a hub name.
            dtype: of the trunk's weights; the head's are in fp32.
            gradient_checkpointing: compute each layer again in the backward pass.

        Raises:
            FileNotFoundError: for a path that does not exist.
            ValueError: for files that cannot be read.
        """
        from safetensors.torch import load_file

        trunk = load_trunk(model_name_or_path, dtype)
        disable_dropout(trunk)
        if gradient_checkpointing:
            checkpoint_layers(trunk)
        trunk.train()
        model = cls(trunk)
        folder = Path(model_name_or_path)
        if (folder / _HEAD_FILE).is_file():
            with reading(model_name_or_path, "reward head"):
                model.head.load_state_dict(load_file(folder / _HEAD_FILE))
                config = json.loads((folder / _CONFIG_FILE).read_text())
                model.reward_mean, model.reward_std = float(config["reward_mean"]), float(config["reward_std"])
            model.has_trained_head = True
        return model

    def save_pretrained(self, folder: Path) -> None:
        """Write trunk, head and normalisation constants into a folder."""
        from safetensors.torch import save_file

        self.trunk.save_pretrained(folder)
        save_file(self.head.state_dict(), folder / _HEAD_FILE)
        config = {"reward_mean": self.reward_mean, "reward_std": self.reward_std}
        (folder / _CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    def forward(self, tokens: TokenBatch) -> Tensor:
        """``[B, L]`` one number a token, each from the state *at* that token; 0 where the mask is False."""
        order = padding_last(tokens.mask)
        hidden = self.trunk(input_ids=tokens.ids.gather(1, order), use_cache=False).last_hidden_state
        states = hidden[tokens.mask.gather(1, order)]
        with torch.autocast(states.device.type, enabled=False):  # a trainer's bf16-mixed would round the scores
            numbers = self.head(states.float()).squeeze(-1)
        return scatter(numbers, tokens.mask)

    def normalise(self, scores: Tensor) -> Tensor:
        """Scores in standard deviations from the mean of the reference responses."""
        return (scores - self.reward_mean) / max(self.reward_std, 1e-6)
