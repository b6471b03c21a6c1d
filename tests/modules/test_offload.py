"""Reference and reward model that wait on the CPU: the same numbers, and nobody else touches them.

Moves to a real accelerator are tested where there is one; the device `meta`, which holds no numbers, shows everywhere
what moves and what comes back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, PPOUpdate
from tamis.modules import CodePolicy, LearnedReward, WeightedReward
from tamis.modules.language_model import load_causal_lm
from tamis.modules.policy import PolicyCallback
from tamis.modules.reference import keep_aside, reference_at_hand, resident

Tasks = list[dict[str, object]]
META = torch.device("meta")


class Seen(PolicyCallback):
    def __init__(self) -> None:
        self.rollouts: list[Any] = []

    def on_update_end(self, trainer: Trainer, module: Any, rollout: Any, stats: Any) -> None:
        self.rollouts.append(rollout)


def _run(
    model: str, reward_folder: Path, tasks: Tasks, offload: bool, accelerator: str = "cpu"
) -> tuple[Any, list[Any]]:
    torch.manual_seed(0)
    reward = LearnedReward(str(reward_folder), offload=offload)
    module = CodePolicy(
        model,
        WeightedReward([reward], [1.0]),
        num_samples=4,
        max_new_tokens=6,
        max_iterations=2,
        offload_reference=offload,
        policy_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    )
    seen = Seen()
    trainer = Trainer(
        max_epochs=-1,
        accelerator=accelerator,
        callbacks=[Filtration("best_worst", keep=2), PPOUpdate(kl_coef=0.1), seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(tasks[:8], batch_size=4, collate_fn=list))  # type: ignore[arg-type]
    return module, seen.rollouts


def _pointers(model: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]


def test_the_numbers_are_the_same(tiny_model: str, reward_folder: Path, tasks: Tasks) -> None:
    (kept, here), (aside, there) = (_run(tiny_model, reward_folder, tasks, offload) for offload in (False, True))
    for one, other in zip(here, there, strict=True):
        for name in ("actions", "rewards", "log_probs", "ref_log_probs", "values"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert all(torch.equal(*pair) for pair in zip(kept.policy.parameters(), aside.policy.parameters(), strict=True))


def test_what_waits_is_no_part_of_the_module(tiny_model: str, reward_folder: Path, tmp_path: Path) -> None:
    """So that neither trainer nor strategy moves, wraps, counts or saves it."""
    reward = LearnedReward(str(reward_folder), offload=True)
    module = CodePolicy(tiny_model, reward, offload_reference=True)
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"policy", "critic"}
    assert not list(reward.parameters())
    assert list(LearnedReward(str(reward_folder)).parameters())
    assert not reward.state_dict()
    reference = module.reference
    assert reference is not None
    before = _pointers(reference), _pointers(reward.reward_model)
    module.to(META)
    assert reward.place.device == module.device == META
    assert (_pointers(reference), _pointers(reward.reward_model)) == before
    assert not any(value.requires_grad for value in (*reference.parameters(), *reward.reward_model.parameters()))


def test_on_the_device_while_needed_and_untouched_afterwards(tiny_model: str, reward_folder: Path) -> None:
    for model in (load_causal_lm(tiny_model), LearnedReward(str(reward_folder)).reward_model):
        before, values = _pointers(model), [value.clone() for value in model.parameters()]
        names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
        with resident(model, META):
            assert {value.device for value in (*model.parameters(), *model.buffers())} == {META}
            assert model.device == META
        with pytest.raises(KeyError, match="inside"), resident(model, META):
            raise KeyError("inside")
        assert _pointers(model) == before
        assert model.device == torch.device("cpu")
        assert all(torch.equal(*pair) for pair in zip(values, model.parameters(), strict=True))
        assert names == [name for name, _ in (*model.named_parameters(), *model.named_buffers())]


def test_a_move_that_keeps_the_parameters_is_undone_too(tiny_model: str) -> None:
    """Between CPU and CUDA torch puts other data into the same parameter; for `meta` it takes another parameter."""
    model = load_causal_lm(tiny_model)
    before = _pointers(model)
    with resident(model, torch.device("cpu:0")):  # another name of the same device: everything but the move happens
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        assert _pointers(model) != before
    assert _pointers(model) == before


def test_the_reference_is_fetched_to_where_it_scores(tiny_model: str) -> None:
    policy, reference = load_causal_lm(tiny_model), load_causal_lm(tiny_model)
    with reference_at_hand(policy, reference, META) as model:
        assert model is reference
        assert reference.device == META
        assert policy.device == torch.device("cpu")
    assert reference.device == torch.device("cpu")


def test_weights_that_are_shared_stay_shared() -> None:
    """Tied embeddings are one weight before, inside and after."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2, bias=False)
            self.second = nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("steps", torch.arange(3.0))
            self.register_buffer("nothing", None)

    model = Tied()
    place = model.first.weight.data_ptr()
    with resident(model, META):
        assert model.first.weight.device == META
    assert model.first.weight is model.second.weight
    assert model.first.weight.data_ptr() == place
    with resident(model, torch.device("cpu")):  # nothing to move
        assert model.first.weight.data_ptr() == place
    owner = nn.Module()
    keep_aside(owner, "model", model)
    assert owner.model is model
    assert not list(owner.modules())[1:]


def test_the_scores_are_asked_for_where_the_policy_is(tiny_model: str, reward_folder: Path, tasks: Tasks) -> None:
    """A reward whose place is `meta` fetches its model there: what it gives then has no numbers, and that shows."""
    reward = LearnedReward(str(reward_folder), offload=True)
    reward.to(META)
    seen: list[torch.device] = []
    reward.reward_model.model.register_forward_pre_hook(
        lambda model, _: seen.append(next(iter(model.parameters())).device)
    )
    with pytest.raises((NotImplementedError, RuntimeError)):
        reward([{"prompt": "def f():\n"}], ["    return 1\n"])
    assert seen == [META]
    assert reward.reward_model.device == torch.device("cpu")


def test_with_an_adapter_there_is_nothing_to_move(tiny_model: str, tasks: Tasks) -> None:
    module = CodePolicy(tiny_model, lora_rank=2, offload_reference=True, num_samples=2, max_new_tokens=4)
    assert module.reference is None
    assert isinstance(module.complete(module.act(tasks[:1])).ref_log_probs, Tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_on_an_accelerator(tiny_model: str, reward_folder: Path, tasks: Tasks) -> None:
    (kept, here), (aside, there) = (_run(tiny_model, reward_folder, tasks, offload, "gpu") for offload in (False, True))
    assert next(kept.reference.parameters()).device.type == "cuda"
    assert next(aside.reference.parameters()).device.type == "cpu"
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one.rewards, other.rewards, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.ref_log_probs, other.ref_log_probs, atol=1e-5, rtol=1e-5)
    module = aside.to("cuda")
    before = torch.cuda.memory_allocated()
    with resident(module.reference, module.device):
        assert torch.cuda.memory_allocated() > before
    assert torch.cuda.memory_allocated() == before
