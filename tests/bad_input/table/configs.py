"""Configs, options, run directories and devices."""

from __future__ import annotations

from pathlib import Path

from .case import BadInput, file

_DEVICES = ("--trainer.accelerator", "--trainer.devices", "--trainer.precision")


def _in_the_way(here: Path, good: Path) -> None:
    (here / "file").write_text("mine")


def _used(here: Path, good: Path) -> None:
    (here / "used").mkdir()
    (here / "used" / "metrics.csv").write_text("iteration,val/accuracy\n")


_CONFIG = "fit --config={here}/run.yaml"
CONFIGS = [
    BadInput("no config", f"nothing {_CONFIG}", ('"config"', "File does not exist", "run.yaml")),
    BadInput("an empty config", f"nothing {_CONFIG}", ("run.yaml is empty", "model:"), file("run.yaml", "\n")),
    BadInput(
        "a config with a tab",
        f"nothing {_CONFIG}",
        ("run.yaml:2: not valid YAML",),
        file("run.yaml", "model:\n\ta: b\n"),
    ),
    BadInput(
        "a config that broke off",
        f"nothing {_CONFIG}",
        ("run.yaml:2: not valid YAML", "quotes"),
        file("run.yaml", "model:\n  a: 'b"),
    ),
    BadInput(
        "a config in Latin-1",
        f"nothing {_CONFIG}",
        ("run.yaml:2: not UTF-8 text (byte 0xfc)", "save the config as UTF-8"),
        file("run.yaml", "# config\n# M\xfcller\n".encode("latin-1")),
    ),
    BadInput(
        "two updates in a config",
        f"nothing {_CONFIG}",
        ("run.yaml:3: the key 'update'", "line 1", "take one away"),
        file("run.yaml", "update:\n  class_path: PPOUpdate\nupdate:\n  class_path: ReinforceUpdate\n"),
    ),
    BadInput(
        "an unknown key in a config",
        f"nothing {_CONFIG}",
        ("'modle.class_path'", "Did you mean 'model'?"),
        file("run.yaml", "modle:\n  class_path: CodePolicy\n"),
    ),
    BadInput("no model", "nothing fit --data=Instructions --data.train=x", ("fit.model", "required")),
    BadInput("an unknown command", "nothing train", ("'train'", "'fit', 'validate', 'test', 'predict'")),
    BadInput("an unknown flag", "sft --trainer.max_epoch=3", ("max_epoch", "Did you mean 'trainer.max_epochs'?")),
    BadInput("an unknown option", "sft --model.max_lenght=3", ("max_lenght", "Did you mean 'max_length'?")),
    BadInput("an unknown class_path", "sft --model=CodePolice", ("CodePolice", "Did you mean 'CodePolicy'?")),
    BadInput("a class_path of no package", "sft --model=nowhere.Model", ("nowhere.Model", "No module named 'nowhere'")),
    BadInput("a data module as model", "sft --model=Instructions", ('"model"', "of another kind than this key takes")),
    BadInput("an unknown optimizer", "sft --model.optimizer=torch.optim.AdamX", ("torch.optim.AdamX", '"optimizer"')),
    BadInput("text for a number", "sft --data.batch_size=four", ('"batch_size"', "four", "int")),
    BadInput("no batch", "sft --data.batch_size=0", ("batch_size", "at least 1", "got 0")),
    BadInput(
        "a batch of more than all", "sft --data.batch_size=1000", ("batch_size=1000", "64", "lower it"), again=True
    ),
    BadInput(
        "a negative learning rate",
        "sft --model.optimizer=torch.optim.SGD --model.optimizer.lr=-1",
        ("learning rate", "-1", "model.optimizer.lr"),
    ),
    BadInput("a rank below 0", "sft --model.lora_rank=-1", ("lora_rank", "-1", "0 to train the whole model")),
    BadInput("a seed below 0", "sft --seed_everything=-3", ("-3", "--seed_everything")),
    BadInput(
        "two updates",
        "policy --trainer.callbacks+=ReinforceUpdate",
        ("exactly one update", "ReinforceUpdate", "PPOUpdate", "Keep one"),
    ),
    BadInput("keep > N", "policy --filter=Filtration --filter.keep=5", ("keep", "2 responses", "got 5", "sample more")),
    BadInput(
        "minibatches that do not divide",
        "policy --update.minibatch_size=3",
        ("minibatches of 3", "8 kept rows", "divides 8"),
        again=True,
    ),
    BadInput("clipping below 0", "policy --update.clip_range=-1", ("clip_range", "positive", "-1.0")),
    BadInput("a discount above 1", "policy --update.gamma=2", ("gamma", "[0, 1]", "gamma=2.0")),
    BadInput("greedy training", "policy --model.temperature=0", ("temperature", "positive", "0.0", "evaluation only")),
    BadInput("k > n", "pass_at_k --model.pass_at=[1,5]", ("pass_at=[1, 5]", "eval_samples=1", "smaller k")),
    BadInput(
        "a chat without a template",
        "policy --model.prompt_format=chat",
        ("prompt_format: chat", "set prompt_format: plain"),
    ),
    BadInput("a network that timm lacks", "npz --model.backbone=resnet18x", ("'resnet18x'", "did you mean resnet18")),
    BadInput(
        "a reward of no file",
        "policy --model.reward=PythonReward --model.reward.function=nofile.py:f",
        ("nofile.py", "path/to/file.py:function"),
    ),
    BadInput("a run directory in use", "sft --run_dir={here}/used", ("used is not empty", "another --run_dir"), _used),
    BadInput(
        "a run directory below a file",
        "sft --run_dir={here}/file/run",
        ("file", "Not a directory", "--run_dir"),
        _in_the_way,
    ),
    BadInput("CUDA where there is none", "sft --trainer.accelerator=cuda", ("CUDAAccelerator", *_DEVICES)),
    BadInput("no device", "sft --trainer.devices=0", ("devices='0'", *_DEVICES)),
    BadInput("an unknown strategy", "sft --trainer.strategy=ddpp", ("'ddpp'", "--trainer.strategy")),
    BadInput("an unknown precision", "sft --trainer.precision=fp8", ("precision", "fp8", "bf16-mixed")),
    BadInput(
        "a precision of other machines",
        "sft --trainer.precision=transformer-engine",
        ("ransformer", "--trainer.precision"),
    ),
]
