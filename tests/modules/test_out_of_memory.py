"""Memory that runs out while sampling or scoring: half as many rows at a time once, the same draws, and a warning."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from tamis.callbacks import ReinforceUpdate
from tamis.modules import CodePolicy, UnitTests

Tasks = list[dict[str, object]]


def _limit(model: nn.Module, rows: int) -> list[int]:
    """Let the model run out of memory above so many rows; gives the rows of each pass that it has taken."""
    taken: list[int] = []

    def forward(_: nn.Module, positional: tuple[Any, ...], given: dict[str, Any]) -> None:
        passed = len(next(value for value in (*positional, *given.values()) if isinstance(value, torch.Tensor)))
        if passed > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        taken.append(passed)

    model.register_forward_pre_hook(forward, with_kwargs=True)
    return taken


def _policy(model: str, **options: Any) -> CodePolicy:
    return CodePolicy(model, num_samples=3, max_new_tokens=6, **options)


@pytest.mark.parametrize("generator", ["native", "transformers"])
@pytest.mark.parametrize("given", [None, 12, 100])
def test_sampling_goes_on_with_half_the_rows_and_draws_the_same(
    generator: Any, given: int | None, tiny_model: str, tasks: Tasks
) -> None:
    module, roomy = (_policy(tiny_model, generator=generator, sample_batch_size=given) for _ in range(2))
    module.load_state_dict(roomy.state_dict())
    expected = roomy.act(tasks[:4])
    taken = _limit(module.policy, 6)
    said = "out of memory while sampling 12 rows at a time; from here on 6 at a time.*Set sample_batch_size"
    with pytest.warns(UserWarning, match=said):
        rollout = module.act(tasks[:4])
    assert torch.equal(rollout.actions, expected.actions)
    assert torch.equal(rollout.response_mask, expected.response_mask)
    assert rollout.records == expected.records
    taken.clear()
    module.act(tasks[:4])  # neither fails nor warns: the smaller number is kept
    assert max(taken) == 6


@pytest.mark.parametrize(
    ("options", "room", "says"),
    [
        ({}, 2, "sampling 6 rows at a time, after their number had been halved; lower sample_batch_size or num_sam"),
        ({"sample_batch_size": 3}, 2, "sampling 3 rows at a time; lower sample_batch_size or num_samples, max_new"),
        ({"sample_batch_size": 1, "generator": "transformers"}, 0, "sampling 1 rows at a time; lower"),
    ],
    ids=["twice", "one prompt", "one row"],
)
def test_where_half_the_rows_are_too_many_the_way_out_is_told(
    options: dict[str, Any], room: int, says: str, tiny_model: str, tasks: Tasks
) -> None:
    """The samples of one prompt are decoded together."""
    module = _policy(tiny_model, **options)
    _limit(module.policy, room)
    with pytest.raises(torch.OutOfMemoryError, match=re.escape(says)) as error:
        module.act(tasks[:4])
    assert "(lora_rank), or set dtype: bfloat16. What the device says: CUDA out of memory. Tried" in str(error.value)


def test_it_is_halved_once_in_a_run(tiny_model: str, tasks: Tasks) -> None:
    module = _policy(tiny_model)
    _limit(module.policy, 6)
    with pytest.warns(UserWarning, match="from here on 6 at a time"):
        module.act(tasks[:4])
    _limit(module.policy, 3)
    with pytest.raises(torch.OutOfMemoryError, match="sampling 6 rows at a time, after their number had been halved"):
        module.act(tasks[:4])


def test_a_model_spread_over_ranks_is_not_tried_again_by_one_of_them(tiny_model: str, tasks: Tasks) -> None:
    """Every pass of it needs all ranks: one rank's further passes would wait for ever."""
    module = _policy(tiny_model)
    taken = _limit(module.policy, 6)
    next(module.policy.parameters()).full_tensor = None  # type: ignore[attr-defined]
    with pytest.raises(torch.OutOfMemoryError, match="sampling 12 rows at a time; lower sample_batch_size"):
        module.act(tasks[:4])
    assert 6 not in taken


def test_scoring_and_training_go_on(tiny_model: str, tasks: Tasks) -> None:
    """A fit whose sampling and scoring both run out of memory once."""
    module = _policy(tiny_model, reward=UnitTests(workers=1), score_batch_size=8, max_iterations=2, critic="none")
    taken = _limit(module.policy.base_model, 6)
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[ReinforceUpdate(minibatch_size=6)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.warns(UserWarning, match="out of memory while scoring 8 rows at a time; from here on 4") as warnings:
        trainer.fit(module, DataLoader(tasks[:8], batch_size=4, collate_fn=list))  # type: ignore[arg-type]
    assert sum(str(warning.message).startswith("out of memory") for warning in warnings) == 2
    assert module.iteration == 2
    assert taken.count(4) >= 6  # three passes of four rows in each iteration
