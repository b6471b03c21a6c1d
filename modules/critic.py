"""The critic of a code policy: a head on the policy's own hidden states, or a second transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from .language_model import Precision, TokenBatch, check_same_vocabulary, scatter
from .scalar_head import ScalarHeadModel, ValueHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Critic = Literal["none", "shared_trunk", "own_trunk"]


def make_critic(
    critic: Critic,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str,
    dtype: Precision,
    gradient_checkpointing: bool,
) -> nn.Module | None:
    """The critic that was asked for.

    Args:
        critic: which kind.
        policy: whose hidden states a head on a shared trunk reads.
        tokenizer: of the policy.
        path: where a critic with its own trunk starts.
        dtype: of that trunk's weights.
        gradient_checkpointing: of that trunk.

    Raises:
        ValueError: for a trunk with another vocabulary than the policy's.
    """
    if critic == "none":
        return None
    if critic == "shared_trunk":
        return ValueHead(int(policy.config.hidden_size))
    check_same_vocabulary(tokenizer, path, "critic_path")
    return ScalarHeadModel.from_pretrained(path, dtype, gradient_checkpointing)


def critic_values(
    critic: nn.Module | None, prompts: TokenBatch, actions: Tensor, response_mask: Tensor, states: Tensor
) -> Tensor | None:
    """``[B, T]`` the value of the state that each token was chosen in, 0 off the mask; ``None`` without a critic.

    Args:
        critic: of `make_critic`.
        prompts: ``[B, L]``, padded on the left.
        actions: ``[B, T]`` response tokens.
        response_mask: ``[B, T]`` bool.
        states: ``[M, H]`` the policy's hidden states that the M response tokens were predicted from. No gradient of a
            value reaches them: the critic may not bend the policy.
    """
    if isinstance(critic, ValueHead):
        return scatter(critic(states.detach()), response_mask)
    if isinstance(critic, ScalarHeadModel):
        mask = torch.cat([prompts.mask, response_mask], dim=1)
        numbers: Tensor = critic(TokenBatch(torch.cat([prompts.ids, actions], dim=1), mask))
        return torch.where(response_mask, numbers[:, -actions.shape[1] - 1 : -1], 0.0)
    return None
