"""What a result file says: the numbers, and everything that could move them. No times, so that it can be repeated."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from ..execution import Status
from ..modules import CodePolicy
from ..modules.code_evaluation import CONFIDENCE, RESAMPLES, Measurement
from ..modules.language_model import end_token_ids, format_prompts

Row = Mapping[str, Any]
Section = dict[str, Any]

PACKAGES = ("tamis", "torch", "transformers", "tokenizers", "lightning", "peft")
_TABLE = ("task_id", "sample", "completion", "status", "detail", "passed", "extracted", "truncated", "calls")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_VALUES = 1024  # looked at of each tensor: milliseconds for any model, and training moves nearly all of them


def table_row(row: Row) -> Section:
    """One line of the table of completions.

    What differs from run to run is left out: addresses in messages, and how far a test had come when time or memory
    ran out.
    """
    line = {key: row[key] for key in _TABLE}
    line["detail"] = _ADDRESS.sub("0x...", row["detail"])
    if row["status"] in (Status.TIMEOUT, Status.MEMORY):
        line["calls"] = None
    return line


def as_json(value: Any, **options: Any) -> str:  # noqa: ANN401 - JSON
    """JSON in plain ASCII with sorted keys, so that it is the same everywhere."""
    return json.dumps(value, sort_keys=True, allow_nan=False, **options)


def measured(measurement: Measurement, mode: str) -> Section:
    """The numbers, each with its mode, n of problems and interval."""
    metrics = {
        f"pass@{k}": {
            "mode": mode,
            "value": _number(estimate.value),
            "interval": [_number(estimate.low), _number(estimate.high)],
            "problems": estimate.problems,
        }
        for k, estimate in measurement.pass_at.items()
    }
    counts = {
        "problems": measurement.problems,
        "problems_without_verdict": measurement.problems_without_verdict,
        "samples": measurement.samples,
        "outcomes": measurement.outcomes,
        "truncated": measurement.truncated,
    }
    interval = {"confidence": CONFIDENCE, "method": "bootstrap over problems", "resamples": RESAMPLES}
    return {"metrics": metrics, "interval": interval, "counts": counts}


def described(module: CodePolicy, rows: Sequence[Row]) -> Section:
    """How the numbers came about: prompt, sampling, model, sandbox, machine.

    Args:
        module: the policy after its evaluation.
        rows: the judged samples with their records, each once and in order.
    """
    first = rows[0]
    stops = sorted({tuple(row.get("stop") or ()) for row in rows})
    settings = module.evaluation
    return {
        "prompt": {
            "format": module.prompt_format,
            "styles": _distinct(row.get("prompt_style") for row in rows),
            "example": {
                "task_id": str(first["task_id"]),
                "text": format_prompts(module.tokenizer, [first["prompt"]], module.prompt_format)[0],
            },
            "max_prompt_tokens": module.max_prompt_tokens,
        },
        "sampling": {
            "mode": settings.mode,
            "samples_per_problem": settings.samples,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": module.seed,
            "max_new_tokens": module.max_new_tokens,
            "stop_strings": [list(strings) for strings in stops],
            "end_tokens": module.tokenizer.convert_ids_to_tokens(end_token_ids(module.policy, module.tokenizer)),
        },
        "model": _model(module),
        "sandbox": {"isolation": module.verifier.level, "limits": asdict(module.verifier.limits)},
        "numerics": {
            "device": module.device.type,
            "threads": torch.get_num_threads(),
            "matmul_precision": torch.get_float32_matmul_precision(),
        },
        "versions": {**{name: version(name) for name in PACKAGES}, "python": platform.python_version()},
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of every tensor's name, shape, type and up to 1,024 evenly spaced values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(bytes(_spread(tensor).contiguous().view(torch.uint8).tolist()))
    return digest.hexdigest()


def _model(module: CodePolicy) -> Section:
    config = {key: value for key, value in module.policy.config.to_dict().items() if key != "_name_or_path"}
    return {
        "name_or_path": module.hparams["model_name_or_path"],
        "parameters": sum(parameter.numel() for parameter in module.policy.parameters()),
        "dtype": _distinct(str(parameter.dtype) for parameter in module.policy.parameters()),
        "config_sha256": hashlib.sha256(as_json(config, default=str).encode()).hexdigest(),
        "weights_sha256": weights_digest(module.policy),
        "tokenizer_sha256": _tokenizer_digest(module.tokenizer),
    }


def _tokenizer_digest(tokenizer: Any) -> str:  # noqa: ANN401 - transformers' classes have no common type
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(as_json([vocabulary, tokenizer.chat_template]).encode()).hexdigest()


def _spread(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    count = min(len(flat), _VALUES)
    places = torch.arange(count, device=flat.device) * max(len(flat) - 1, 0) // max(count - 1, 1)
    return flat[places].cpu()


def _distinct(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value is not None})


def _number(value: float) -> float | None:
    """JSON knows no NaN: without a verdict there is no number."""
    return value if math.isfinite(value) else None
