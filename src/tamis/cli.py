"""The command ``tamis fit|validate|test|predict``: LightningCLI with two keys of its own, ``filter`` and ``update``."""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from . import callbacks, datamodules, modules
from .callbacks import Filtration, PolicyUpdate
from .checkpoint_file import check_checkpoint
from .config_file import ConfigFile
from .explain import explain, told

# Said of every run, and true of none that matters: our run directories are new, and no validation file is a choice.
_HARMLESS = (
    "Experiment logs directory",
    "LightningCLI's args parameter is intended to run from within Python",
    "Total length of `list` across ranks is zero",
    "The '\\w+_dataloader' does not have many workers",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)

_RUN_DIR_VARIABLE = "TAMIS_RUN_DIR"
_DESCRIPTION = "Train policies by policy gradient, and sift the noise out of it."


class TamisParser(LightningArgumentParser):
    """A parser whose complaint about an unknown key names the nearest right one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say the cause and the nearest right key; a hundred lines of usage would hide them."""
        text = explain(message, _known_keys(self), _class_names())
        if not self.exit_on_error:
            super().error(text, ex)
        self.exit(2, f"error: {text}\n`{self.prog.replace('[options] ', '')} --help` lists the options.\n")
        raise SystemExit(2)


def keep_whole_numbers(function: Callable[..., Any]) -> None:
    """Let a parser that tries a union's types in turn try ``int`` before ``float``.

    ``typing`` takes ``Optional[Union[int, float]]`` and ``Optional[Union[float, int]]`` for one, and gives whichever
    was written first in the process. Lightning writes both: after unlucky imports ``limit_train_batches=1``, one batch,
    would be read as 1.0, all batches.
    """
    function = inspect.unwrap(function)
    for name, hint in function.__annotations__.items():
        kinds = get_args(hint)
        if int in kinds and float in kinds and kinds.index(float) < kinds.index(int):
            others = [kind for kind in kinds if kind not in (int, float)]
            function.__annotations__[name] = functools.reduce(operator.or_, [int, float, *others])


class TamisCLI(LightningCLI):
    """LightningCLI in subclass mode; ``filter`` and ``update`` are callbacks with keys of their own.

    As named groups any of their options is one flag (``--filter.strategy best_worst``, ``--update.clip_range 0.1``),
    where an entry of ``trainer.callbacks`` could only be changed by repeating the list.
    """

    def __init__(self, args: Sequence[str] | None = None) -> None:
        keep_whole_numbers(Trainer.__init__)
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "tamis", "description": _DESCRIPTION},
            args=list(args) if args is not None else None,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401 - LightningCLI's own signature
        """Our parser in place of Lightning's."""
        kwargs.setdefault("allow_abbrev", False)  # a misspelt flag is an error, not another flag's beginning
        kwargs.setdefault("dump_header", [f"tamis {_version()}"])
        parser = TamisParser(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path to a configuration file in YAML.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys beside Lightning's."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of this run: logs, checkpoints, exported models. It must be new or empty; "
            "by default runs/<model>-<number>, the next free number.",
        )
        parser.add_subclass_arguments(
            Filtration, "filter", required=False, help="Which rows may update the policy, e.g. --filter Filtration."
        )
        parser.add_subclass_arguments(
            PolicyUpdate, "update", required=False, help="How the policy learns, e.g. --update PPOUpdate."
        )

    def before_instantiate_classes(self) -> None:
        """Look at the checkpoint before models are loaded for it."""
        ckpt_path = self._get(self.config, "ckpt_path")
        if ckpt_path is not None:
            check_checkpoint(str(ckpt_path))

    def instantiate_classes(self) -> None:
        """Say why a class could not be made, without the parser's own stack."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Union subtypes" not in str(error):
                raise
            self.parser.error(str(error), error)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - LightningCLI's own signature
        """Put the run into a directory of its own, and the filter and the update behind the other callbacks."""
        run_dir = self._run_dir()
        config = self._get(self.config_init, "trainer", default={})
        if config.get("logger") is None:
            from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

            kwargs["logger"] = [
                TensorBoardLogger(str(run_dir), name="", version=""),
                CSVLogger(str(run_dir), name="", version=""),
            ]
        extra = [self._get(self.config_init, key) for key in ("filter", "update")]
        listed = config.get("callbacks") or []
        listed = listed if isinstance(listed, list) else [listed]  # `--trainer.callbacks NAME` gives one alone
        kwargs["callbacks"] = [*listed, *(callback for callback in extra if callback)]
        return super().instantiate_trainer(**kwargs, default_root_dir=str(run_dir))

    def _parse_ckpt_path(self) -> None:
        """Leave the options alone: LightningCLI lets a checkpoint's old options win over the command line's."""

    def _run_dir(self) -> Path:
        """A new directory, made by rank 0; processes that Lightning starts for the other ranks are told its name."""
        chosen = self._get(self.config, "run_dir")
        if getattr(rank_zero_only, "rank", 0):
            name = chosen or os.environ.get(_RUN_DIR_VARIABLE)
            if name is None:
                raise SystemExit("tamis: give every process the same --run_dir when you start the ranks yourself.")
            return Path(name)
        if chosen is None:
            model = self._get(self.config, "model")
            run_dir = _next_free(Path("runs"), model.class_path.rsplit(".", 1)[-1])
        else:
            run_dir = _empty(Path(chosen))
        os.environ[_RUN_DIR_VARIABLE] = str(run_dir)
        return run_dir


def run(args: Sequence[str] | None = None) -> TamisCLI:
    """Run one command; returns the CLI object with its ``trainer``, ``model`` and ``datamodule``."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    return TamisCLI(args)


def main() -> None:
    """The console script: an error in what the user gave is its message; any other keeps its stack."""
    try:
        run()
    except Exception as error:
        text = None if os.environ.get("TAMIS_TRACEBACK") else told(error)
        if text is None:
            raise
        print(f"\ntamis: error: {text}\n(TAMIS_TRACEBACK=1 shows where.)", file=sys.stderr)
        raise SystemExit(1) from None


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def _version() -> str:
    from . import __version__

    return __version__


def _empty(run_dir: Path) -> Path:
    # TensorBoard's file is there before anything has run; a run that failed on its input may be tried again.
    if run_dir.is_dir() and any(not path.name.startswith("events.out.tfevents") for path in run_dir.iterdir()):
        raise SystemExit(
            f"tamis: the run directory {run_dir} is not empty, and nothing is overwritten. "
            "Choose another --run_dir, or remove it."
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def _next_free(folder: Path, name: str) -> Path:
    """``folder/name-<k>`` with the smallest free k, made at once so that two runs never share it."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            (folder / f"{name}-{number}").mkdir()
            return folder / f"{name}-{number}"
        except FileExistsError:
            number += 1


def _class_names() -> list[str]:
    """Short names that may stand as a ``class_path``; importing the sub-packages has made them known."""
    return [*modules.__all__, *datamodules.__all__, *callbacks.__all__]


def _known_keys(parser: LightningArgumentParser) -> list[str]:
    keys = []
    for action in parser._actions:
        choices = getattr(action, "choices", None)
        if isinstance(choices, dict):  # the sub-commands' parsers
            for child in choices.values():
                keys += _known_keys(child)
        elif action.dest:
            keys.append(action.dest)
    return keys


if __name__ == "__main__":
    main()
