"""Options of optimisers and schedules when a run goes on: those of today's config win over the checkpoint's.

Optimisers and schedules carry their options in their state, so that loading it brings back the old ones. What they were
made with is therefore kept in the checkpoint as well: an option that is made otherwise today has been changed on
purpose, and any other value that moved since, such as a learning rate, goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

Made = dict[str, Any]
Change = tuple[str, Any, Any]

# Follow from other options and from how far a schedule has come.
_RATES = ("lr", "initial_lr")
_PROGRESS = ("last_epoch", "_step_count", "_last_lr", "base_lrs", "_get_lr_called_within_step", "_is_initial")


def options_made_with(optimizers: Sequence[Optimizer], schedulers: Sequence[Any]) -> Made:
    """The options of new optimisers and schedules, in primitives."""
    return {
        "optimizers": [[_plain(_without_parameters(group)) for group in made.param_groups] for made in optimizers],
        "schedulers": [_plain(made.state_dict()) for made in schedulers],
    }


def keep_todays_options(
    optimizers: Sequence[Optimizer], schedulers: Sequence[Any], then: Made, now: Made
) -> list[Change]:
    """Put options that were changed since the checkpoint into the loaded optimisers and schedules.

    Args:
        optimizers: with the checkpoint's state.
        schedulers: with the checkpoint's state.
        then: what the checkpoint's were made with.
        now: what these were made with.

    Returns:
        Name, old value and new value of what was changed.
    """
    changes: list[Change] = []
    for optimizer, old_groups, new_groups in zip(optimizers, then["optimizers"], now["optimizers"], strict=False):
        for group, old, new in zip(optimizer.param_groups, old_groups, new_groups, strict=False):
            changes += _change_group(group, old, new)
    for scheduler, old, new in zip(schedulers, then["schedulers"], now["schedulers"], strict=False):
        changed = _change_schedule(scheduler, old, new)
        changes += changed
        if isinstance(scheduler, LRScheduler):
            _recompute(scheduler, rates_changed=bool(changed) or old.get("base_lrs") != new.get("base_lrs"))
    return changes


def _change_group(group: dict[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    changed = {key: value for key, value in new.items() if key not in _RATES and old.get(key) != value}
    group.update(changed)
    changes = [(key, old.get(key), value) for key, value in changed.items()]
    before, today = _base_rate(old), _base_rate(new)
    if before != today:
        # In proportion: how far a schedule has brought the rate down is progress, not an option.
        group["lr"] = group["lr"] * (today / before) if before else today
        if "initial_lr" in group:
            group["initial_lr"] = today
        changes.append(("lr", before, today))
    return changes


def _base_rate(group: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a float, unless an optimiser has other ideas
    return group.get("initial_lr", group.get("lr"))


def _change_schedule(scheduler: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:  # noqa: ANN401
    changes = []
    for key, value in new.items():
        if key == "_schedulers":
            for part, *states in zip(scheduler._schedulers, old.get(key, []), value, strict=False):
                changes += _change_schedule(part, *states)
        elif key == "base_lrs" and old.get(key) != value:
            scheduler.base_lrs = list(value)
        elif key not in _PROGRESS and old.get(key) != value:
            setattr(scheduler, key, value)
            changes.append((f"{type(scheduler).__name__}.{key}", old.get(key), value))
    return changes


def _recompute(scheduler: LRScheduler, rates_changed: bool) -> None:
    """The rates at the schedule's present place, where it can tell them without the way there."""
    rates: Iterable[Any]
    if isinstance(scheduler, LambdaLR):  # its function, made of today's options, is in no checkpoint
        rates = [
            base * rate(scheduler.last_epoch)
            for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
    elif rates_changed and hasattr(scheduler, "_get_closed_form_lr"):
        rates = scheduler._get_closed_form_lr()
    else:
        return
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """The value without what is neither a number, a text nor a collection of such."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if _is_plain(item)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value if _is_plain(item)]
    return value


def _is_plain(value: Any) -> bool:  # noqa: ANN401
    return value is None or isinstance(value, bool | int | float | str | Tensor | Mapping | list | tuple)
