"""LoRA through peft: a small trained adapter on a frozen base, which holds the reference as well."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .model_errors import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: In a checkpoint, the names of the weights that are in it.
TRAINED = "trained_weights"

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# peft's name for the first adapter, so that what we write is what everybody reads.
_TRAINED, _REFERENCE = "default", "reference"


def is_adapter(model_name_or_path: str) -> bool:
    """Whether this is a folder that holds an adapter instead of a whole model."""
    return (Path(model_name_or_path) / _CONFIG).is_file()


def base_of(model_name_or_path: str) -> str:
    """The model that an adapter's folder was trained on; any other model is its own base.

    Raises:
        ValueError: for an adapter that names no base, or that is of another kind than LoRA.
    """
    if not is_adapter(model_name_or_path):
        return model_name_or_path
    file = Path(model_name_or_path) / _CONFIG
    try:
        config = json.loads(file.read_text())
    except ValueError as error:  # neither JSON nor UTF-8
        raise ValueError(f"{file} is not valid JSON ({error}); export the adapter again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold an object, got {type(config).__name__}; export the adapter again")
    base, kind = config.get("base_model_name_or_path"), config.get("peft_type")
    if kind != "LORA":
        raise ValueError(
            f"{file} says peft_type {kind!r}; only LORA can be trained on. Merge the adapter and save that."
        )
    if not isinstance(base, str) or not base:
        raise ValueError(f"{file} names no base_model_name_or_path; write the folder of the adapter's base model there")
    if (base.endswith(".gguf") or Path(base).is_absolute()) and not Path(base).exists():
        raise FileNotFoundError(f"{file} names the base {base}, which is not there; write its place there")
    return base


def add_lora(model: Any, rank: int, base: str) -> PreTrainedModel:  # noqa: ANN401
    """A new adapter on every linear layer; it starts at zero, so that the model still says what its base says.

    Args:
        model: the base.
        rank: of the adapter.
        base: where it came from, which an adapter's folder names.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    # A path that leads there from any working directory; peft would write a GGUF file's folder.
    adapted.peft_config[_TRAINED].base_model_name_or_path = str(Path(base).resolve()) if Path(base).exists() else base
    trained: Any = adapted
    return trained  # type: ignore[no-any-return]


def load_lora(model: Any, folder: str, rank: int) -> PreTrainedModel:  # noqa: ANN401
    """The adapter of a folder, to be trained on.

    Args:
        model: its base.
        folder: of the adapter.
        rank: the one that was asked for, 0 for whatever the adapter has.

    Raises:
        FileNotFoundError: if the folder has no weights.
        ValueError: if another rank was asked for than the adapter has, or its files cannot be read.
    """
    from peft import PeftModel

    if not any((Path(folder) / name).is_file() for name in _WEIGHTS):  # peft would ask the hub for them
        raise FileNotFoundError(f"{folder} has an {_CONFIG} and no {_WEIGHTS[0]}; copy or export the adapter again")
    with reading(folder, "adapter"):
        adapted: Any = PeftModel.from_pretrained(model, folder, is_trainable=True)
    given = adapted.peft_config[_TRAINED].r
    if rank not in (0, given):
        raise ValueError(
            f"lora_rank={rank}, but {folder} holds an adapter of rank {given}, and it is this one that is trained on; "
            f"leave lora_rank at 0, or give a folder with the adapter merged (merge_adapter) to start a new one"
        )
    return adapted  # type: ignore[no-any-return]


def add_frozen_copy(model: Any, folder: str) -> None:  # noqa: ANN401
    """Beside the adapter that is trained, the one of the folder as it is, for the reference."""
    model.load_adapter(folder, _REFERENCE, is_trainable=False)
    model.train()  # loading leaves it in evaluation mode


@contextmanager
def as_reference(model: Any) -> Iterator[None]:  # noqa: ANN401
    """Inside, an adapted model is its own reference: its frozen adapter where it has one, else the bare base."""
    if _REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(_REFERENCE, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(_TRAINED)


def merged(model: Any) -> PreTrainedModel:  # noqa: ANN401
    """A copy of the base with the trained adapter in its weights; any other model as it is."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model  # type: ignore[no-any-return]
    return copy.deepcopy(model).merge_and_unload(adapter_names=[_TRAINED])  # type: ignore[no-any-return]


def check_export(model: Any, merge_adapter: bool) -> None:  # noqa: ANN401
    """Refuse to train towards an adapter where none is trained.

    Raises:
        ValueError: naming the options.
    """
    from peft import PeftModel

    if not merge_adapter and not isinstance(model, PeftModel):
        raise ValueError(
            "merge_adapter=False exports an adapter, and none is trained with lora_rank=0; set a lora_rank such as 16, "
            "or leave merge_adapter at True"
        )


def save_adapter(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Write the trained adapter, and nothing of its base."""
    # Whether the embeddings changed is asked of the hub otherwise; adapters of ours leave them alone.
    model.save_pretrained(str(folder), selected_adapters=[_TRAINED], save_embedding_layers=False)


def without_frozen(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's weights without those that never change: they are read from where they came from."""
    frozen = {name for name, value in module.named_parameters(remove_duplicate=False) if not value.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def check_trained_weights(module: nn.Module, checkpoint: Mapping[str, Any], prefix: str) -> None:
    """Refuse a checkpoint that would leave trained weights as they start, which nothing else would notice.

    Args:
        module: that loads it.
        checkpoint: with the ``state_dict``, or, where FSDP2 has taken that away for itself, the names in `TRAINED`.
        prefix: of the weights that have to be there.

    Raises:
        ValueError: naming the first weight that is not in it.
    """
    known = checkpoint["state_dict"] if "state_dict" in checkpoint else checkpoint[TRAINED]
    names = [name for name, value in module.named_parameters() if value.requires_grad and name.startswith(prefix)]
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"the checkpoint has no {missing[0]} ({len(missing)} of {len(names)} trained weights are missing): it was "
            "written by a run with another lora_rank or model_name_or_path; give the ones of that run"
        )
