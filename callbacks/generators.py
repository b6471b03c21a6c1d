"""The state of every process's global random generators, as a checkpoint can hold it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..processes import place, several_processes

State = dict[str, Any]


def generator_states() -> list[State]:
    """One state a rank, in primitives and tensors; every rank must ask."""
    own = _own_state()
    if not several_processes():
        return [own]
    states: list[State] = [{} for _ in range(place()[1])]
    torch.distributed.all_gather_object(states, own)
    return states


def restore_generators(states: Sequence[State]) -> None:
    """Go on with this rank's state; a rank that had none keeps its own."""
    rank = place()[0]
    if rank >= len(states):
        return
    state = states[rank]
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _own_state() -> State:
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state: State = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    # Only if the run uses it: to ask would start CUDA in processes that have no need of it.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
