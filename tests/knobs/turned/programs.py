"""Options of the code policy and of what looks at its programs."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from tamis.callbacks import CompletionTable, Filtration, PolicyCallback, PPOUpdate, RewardReliability
from tamis.execution import Limits, Program, Sandbox, SandboxUnavailableError
from tamis.modules import CodePolicy, PythonReward
from tamis.modules.rewards import Verifier

from .learning import QUIET
from .turning import Knobs, Of, Options, Turn
from .words import Material, counted, fit, layer_of, listing, loader, trained, write_tasks

#: A right answer of more than a KiB.
LONG = "    return 2 * x  # " + "x" * 2000 + "\n"


def sandbox_of(verifier: Verifier) -> tuple[str | None, int]:
    """The level, or why there is none, and how many threads drive its workers."""
    before = set(threading.enumerate())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verifier.start()
        return verifier.level, len(set(threading.enumerate()) - before)
    except SandboxUnavailableError as error:
        return str(error), 0
    finally:
        verifier.close()


def _length(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(len(text) % 7) for text in completions]


def _minus_length(prompts: list[str], completions: list[str]) -> list[float]:
    return [-float(len(text) % 7) for text in completions]


_REWARD = PythonReward(_length)


def _policy(options: Options) -> CodePolicy:
    small: Options = {"num_samples": 2, "max_new_tokens": 4, "workers": 1, "isolation": "process", "reward": _REWARD}
    return CodePolicy(**small | options)


def _drawn(material: Material, folder: Path, options: Options) -> Any:
    rollout = _policy(options).act(material.records[:2])
    return rollout.actions, rollout.response_mask


def _scored(material: Material, folder: Path, options: Options) -> Any:
    """What stands in a rollout before the update: log-probabilities of policy and reference, values, rewards."""
    module = _policy(options)
    done = module.complete(module.reward(module.act(material.records[:2])))
    return done.rewards, done.log_probs, done.ref_log_probs, done.values


def _passes(material: Material, folder: Path, options: Options) -> Any:
    """Rows of each pass, through an iteration."""
    module = _policy(options)
    names = ("policy", "reference", "critic")
    networks = {name: part for name in names if (part := getattr(module, name)) is not None}
    networks["layer"] = layer_of(networks["policy"])
    with counted(networks) as calls:
        fit(folder, module, material.records[:2], PPOUpdate())
    return [(name, shape[0], len(shape)) for name, shape in calls]


def _learned(material: Material, folder: Path, options: Options) -> Any:
    module = _policy({"max_iterations": 3} | options)  # two could not tell a line from a cosine
    fit(folder, module, material.records * 2, PPOUpdate())
    return trained(module) | {"iteration": module.iteration}


def _networks(material: Material, folder: Path, options: Options) -> Any:
    """Weights before training, their kinds, and which of them a trainer knows of."""
    return {name: parameter.detach().clone() for name, parameter in _policy(options).named_parameters()}


def _exported(material: Material, folder: Path, options: Options) -> Any:
    _policy(options).export(folder)
    return list(listing(folder))


def _validated(material: Material, folder: Path, options: Options) -> Any:
    module, seen = _policy(options), Seen()
    trainer = Trainer(callbacks=[seen], default_root_dir=folder, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.validate(module, loader(material.records[:2], 2), verbose=False)
    return {"texts": seen.texts, "metrics": dict(trainer.logged_metrics)}


class Seen(Callback):
    """The samples of an evaluation."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
        self.texts += [(row["completion"], row["status"]) for row in outputs["samples"]]


def _verified(material: Material, folder: Path, options: Options) -> Any:
    return sandbox_of(_policy(options).verifier)


def _judged(material: Material, folder: Path, options: Options) -> Any:
    verifier = _policy(options).verifier
    verdicts = verifier.run(material.records[:1], [LONG])
    verifier.close()
    return [str(verdict.status) for verdict in verdicts]


_MODEL = {"model_name_or_path": Of("model")}
_SAMPLED = {"eval_samples": 2, "eval_temperature": 1.0}
_SGD: Any = partial(torch.optim.SGD, lr=1.0)

_CODE_POLICY = Knobs(
    {
        "drawn": _drawn,
        "scored": _scored,
        "passes": _passes,
        "learned": _learned,
        "networks": _networks,
        "files": _exported,
        "validated": _validated,
        "sandbox": _verified,
        "judged": _judged,
    },
    {
        "model_name_or_path": Turn(Of("other"), "drawn"),
        "reward": Turn(PythonReward(_minus_length), "scored"),
        "num_samples": Turn(3, "drawn"),
        "temperature": Turn(0.2, "drawn"),
        "top_p": Turn(0.1, "drawn", {"allow_off_policy_sampling": True}),
        "allow_off_policy_sampling": Turn(True, "drawn", {"top_p": 0.1}, refused_before="draws from another"),
        "max_new_tokens": Turn(6, "drawn"),
        "max_prompt_tokens": Turn(3, "drawn", refused="max_prompt_tokens=3"),
        "prompt_format": Turn("chat", "drawn"),
        "critic": Turn("own_trunk", "networks"),
        "critic_path": Turn(Of("scorer"), "networks", {"critic": "own_trunk"}),
        "reference": Turn(False, "scored"),
        "reference_path": Turn(Of("other"), "scored"),
        "offload_reference": Turn(True, "networks"),
        "lora_rank": Turn(2, "networks"),
        "merge_adapter": Turn(False, "files", {"lora_rank": 2}),
        "dtype": Turn("bfloat16", "networks"),
        "gradient_checkpointing": Turn(True, "passes"),
        "generator": Turn("transformers", "passes"),
        "sample_batch_size": Turn(2, "passes"),
        "score_batch_size": Turn(2, "passes"),
        "policy_optimizer": Turn(_SGD, "learned"),
        "critic_optimizer": Turn(_SGD, "learned"),
        "schedule": Turn("constant", "learned"),
        "warmup_ratio": Turn(0.6, "learned"),
        "eval_samples": Turn(3, "validated", _SAMPLED),
        "eval_temperature": Turn(0.1, "validated", _SAMPLED),
        "eval_top_p": Turn(0.1, "validated", _SAMPLED),
        "pass_at": Turn((1, 2), "validated", _SAMPLED),
        "workers": Turn(2, "sandbox"),
        "isolation": Turn("auto", "sandbox"),
        "limits": Turn(Limits(source_kb=1), "judged"),
        "seed": Turn(1, "drawn"),
        "max_iterations": Turn(1, "learned"),
    },
    _MODEL,
)


def _table(material: Material, folder: Path, options: Options) -> Any:
    if "folder" in options:
        options["folder"] = str(folder / options["folder"])
    trainer = Trainer(callbacks=[CompletionTable(**options)], default_root_dir=folder, **QUIET)
    with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.test(_policy(_resolved(material)), loader(material.records, 4), verbose=False)
    lines = [line for line in printed.getvalue().splitlines() if not line.startswith("Written")]
    return {"printed": lines, "files": sorted(listing(folder))}


def _resolved(material: Material) -> Options:
    return {"model_name_or_path": material.model}


#: Programs that want much of one thing each.
_WISHES = {
    "cpu_s": "import time\n    while time.process_time() < 0.3:\n        pass",
    "wall_s": "import time\n    time.sleep(0.3)",
    "memory_mb": "block = bytearray(300 << 20)",
    "file_mb": "import tempfile\n    tempfile.TemporaryFile().write(bytes(3 << 20))",
    "open_files": "files = [open('/dev/null') for _ in range(20)]",
    "reply_mb": "return 'x' * (3 << 20)",
    "source_kb": "text = '" + "x" * 3000 + "'",
}


def _ended(material: Material, folder: Path, options: Options) -> Any:
    """How these programs end, where they may do everything but for their limits."""
    programs = [Program(f"def f():\n    {wish}\n    return 1\n", "assert f()") for wish in _WISHES.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Sandbox(1, "process", Limits(**options)) as sandbox:
            verdicts = sandbox.run_many(programs)
    return {name: str(verdict.status) for name, verdict in zip(_WISHES, verdicts, strict=True)}


def _probed(material: Material, folder: Path, options: Options) -> Any:
    """How many answers are rewarded at a time, in the loop and of a probe set, and what a filter goes by."""
    given: Options = {name: options.pop(name) for name in ("candidates",) if name in options} | {"keep": 1}
    probe, sizes, strategies = folder / "probe.jsonl", list[int](), Strategies()
    write_tasks(probe, material.records)

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        sizes.append(len(completions))
        return _length(prompts, completions)

    watch = RewardReliability(**options | {"bins": 2, "probe": f"{probe}{options.get('probe', '')}"})
    module = _policy(_resolved(material) | {"max_iterations": 3, "reward": PythonReward(reward)})
    fit(folder, module, material.records * 2, watch, Filtration("auto", **given), strategies, PPOUpdate())
    return {"sizes": sizes, "strategies": strategies.seen}


class Strategies(PolicyCallback):
    """What the filter goes by, iteration by iteration."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        self.seen += [callback.chosen for callback in trainer.callbacks if isinstance(callback, Filtration)]


#: Of `RewardReliability` while a policy trains, and of a filter that goes by it.
WATCH = {
    "probe": Turn("[:3]", "probed/sizes", {"every_n_iterations": 1}),
    "probe_samples": Turn(3, "probed/sizes", {"every_n_iterations": 1}),
    "every_n_iterations": Turn(2, "probed/sizes", {"every_n_iterations": 1}),
}
PROBED = {"probed": _probed}
CANDIDATES = Knobs(
    PROBED, {"candidates": Turn(("random", "best_worst"), "probed/strategies")}, {"every_n_iterations": 1}
)

PROGRAMS: dict[type, Knobs] = {
    CodePolicy: _CODE_POLICY,
    CompletionTable: Knobs(
        {"table": _table},
        {"folder": Turn("elsewhere", "table/files"), "failures": Turn(1, "table/printed")},
    ),
    Limits: Knobs(
        {"ended": _ended},
        {
            "cpu_s": Turn(0.1, "ended/cpu_s"),
            "wall_s": Turn(0.1, "ended/wall_s"),
            "memory_mb": Turn(128, "ended/memory_mb"),
            "file_mb": Turn(8, "ended/file_mb"),
            "open_files": Turn(16, "ended/open_files"),
            "reply_mb": Turn(1, "ended/reply_mb"),
            "source_kb": Turn(1, "ended/source_kb"),
        },
    ),
}
