"""FSDP2: weights, gradients and optimiser states of a network divided among the ranks, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from .scalar_head import ScalarHeadModel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_Result = TypeVar("_Result")
_Network = TypeVar("_Network", bound=nn.Module)

_FSDP2 = (
    "`--trainer.strategy ModelParallelStrategy --trainer.strategy.data_parallel_size <processes> "
    "--trainer.strategy.tensor_parallel_size 1 --trainer.strategy.save_distributed_checkpoint false`"
)


def check_strategy(module: LightningModule, stage: str) -> None:
    """Refuse a strategy that would train something else, or hang, before any time is spent.

    Args:
        module: what is to run; one with a ``configure_model`` can be sharded.
        stage: as Lightning's ``setup`` gets it.

    Raises:
        MisconfigurationException: naming the strategy that works instead.
    """
    strategy, name = module.trainer.strategy, type(module).__name__
    can_be_sharded = is_overridden("configure_model", module)
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
        fsdp2 = f"; where the model is too large for that, FSDP2: {_FSDP2}" if can_be_sharded else ""
        raise MisconfigurationException(
            f"{type(strategy).__name__} wraps a whole module, and {name} also enters its networks one by one. "
            f"Use `--trainer.strategy ddp`{fsdp2}."
        )
    if not isinstance(strategy, ModelParallelStrategy):
        return
    if not can_be_sharded:
        raise MisconfigurationException(f"{name} is not made to be sharded (FSDP2); use `--trainer.strategy ddp`.")
    if stage in ("predict", "test"):
        raise MisconfigurationException(
            f"{TrainerFn(stage).value} is not for sharded models: the ranks could have different numbers of batches, "
            "and would wait for each other for ever. Use `--trainer.strategy ddp`, or one process, with the model that "
            "fit has exported."
        )
    split = strategy.device_mesh["tensor_parallel"].size()
    if split != 1:
        raise MisconfigurationException(
            f"tensor_parallel_size is {split}, and {name} shards its weights (FSDP2) but splits no layer: use {_FSDP2}."
        )
    if strategy._save_distributed_checkpoint:
        raise MisconfigurationException(
            "save_distributed_checkpoint is true, and checkpoints are one file with all weights, which one process can "
            f"read, too: use {_FSDP2}."
        )


def shard_networks(module: LightningModule, *networks: nn.Module | None) -> None:
    """What ``configure_model`` does: shard the networks where the strategy is FSDP2, nothing with any other.

    Lightning calls it again for every stage; a network that is sharded stays as it is.
    """
    if module.device_mesh is None:
        return
    for network in networks:
        if network is not None and not is_sharded(network):
            shard(network, module.device_mesh["data_parallel"])


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has been here."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in module.modules())


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Divide a network's parameters among the ranks, in place; each layer is whole only while it computes.

    The units are the layers of its transformer, a scalar head, and the rest. What enters it afterwards has to enter by
    the network itself, whose hooks gather the rest: see `forward_of`.

    Args:
        network: a model of transformers (with a LoRA adapter or without), or a module around one.
        mesh: the ranks.

    Raises:
        ValueError: for a transformer whose layers are not known.
    """
    from torch.distributed.fsdp import fully_shard

    root = causal_of(network)
    # A unit's weights are of one type, and a scalar head is in fp32 whatever its trunk is in.
    heads = [root.head] if isinstance(root, ScalarHeadModel) else []
    for unit in [*_layers(root), *heads, root]:
        # After a forward nothing stays whole, so that the parameters are shards wherever somebody looks at them.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def causal_of(model: Any) -> Any:  # noqa: ANN401
    """The language model itself: a LoRA adapter lives inside its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward_of(network: nn.Module, compute: Callable[[], _Result]) -> _Result:
    """Whatever ``compute`` does with the network's parts, done as a forward of a network that is sharded.

    Its hooks then gather the parameters around it, and again for its backward pass.

    Args:
        network: that was given to `shard`, or another one, for which ``compute`` is just called.
        compute: returns tensors, or a named tuple of them. Inside, ``network.forward(...)`` computes without hooks.
    """
    if not is_sharded(network):
        return compute()
    own = network.__dict__.get("forward")  # libraries that move layers between devices put one here

    def restore() -> None:
        network.__dict__.pop("forward", None)
        if own is not None:
            network.__dict__["forward"] = own

    def forward() -> _Result:
        restore()
        return compute()

    network.__dict__["forward"] = forward
    try:
        result: _Result = network()
    finally:
        restore()
    return result


def gathered(network: _Network, load: Callable[[], _Network]) -> _Network | None:
    """The network with whole weights, to be written by whoever gets it; where it is sharded, all ranks must call this.

    Args:
        network: sharded or not; one that is not is returned as it is.
        load: makes it anew, as it started. Rank 0 calls it, and puts the trained weights into it, on the CPU; the other
            ranks get ``None``.
    """
    if not is_sharded(network):
        return network
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    trained: dict[str, Any] = get_model_state_dict(network, options=options)
    if torch.distributed.get_rank() > 0:
        return None
    whole = load()
    whole.load_state_dict(trained, strict=False)  # what is frozen is there
    return whole


def _layers(root: nn.Module) -> list[nn.Module]:
    """The layers of the transformers inside, by the names that transformers keeps for whoever has to cut a model."""
    names: list[Any] = [part._no_split_modules for part in root.modules() if hasattr(part, "_no_split_modules")]
    known = {name for some in names for name in some or ()}
    layers = [part for part in root.modules() if type(part).__name__ in known]
    if names and not layers:
        raise ValueError(
            f"{type(root).__name__} does not say what its layers are (_no_split_modules), so that it cannot be "
            "sharded; use `--trainer.strategy ddp`"
        )
    return layers
