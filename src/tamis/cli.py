"""The command ``tamis fit|validate|test|predict``: LightningCLI with two keys of its own, ``filter`` and ``update``."""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from . import callbacks, datamodules, modules
from .callbacks import Filtration, PolicyUpdate, RunCheckpoints
from .config_file import ConfigFile
from .explain import explain, told
from .run_dir.events_file import EventsFile
from .run_dir.metrics_file import MetricsFile
from .run_dir.options import differing_options, options_to_take_over
from .run_dir.provenance import write_provenance
from .run_dir.record import RunRecord
from .run_dir.redaction import redacted
from .run_dir.resume import Found
from .run_dir.start import AUTO, Start, check_run_dir, checkpoint_of, option_in, start_of

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
        self._checkpoint: Found | None = None
        self._command: list[str] = []
        keep_whole_numbers(Trainer.__init__)
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=None,  # `RunRecord` writes it, once the run has been set up
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
            help="Directory of this run: logs, checkpoints, exported models. It must be new or empty, unless the run "
            "goes on in it; by default runs/<model>-<number>, the next free number.",
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Go on with training from a checkpoint: its path, or `auto` for the newest whole one in --run_dir "
            "(without that, in the newest run of this model). Where there is none, `auto` begins at the beginning.",
        )
        parser.add_class_arguments(RunCheckpoints, "checkpoint")
        parser.add_subclass_arguments(
            Filtration, "filter", required=False, help="Which rows may update the policy, e.g. --filter Filtration."
        )
        parser.add_subclass_arguments(
            PolicyUpdate, "update", required=False, help="How the policy learns, e.g. --update PPOUpdate."
        )

    def before_instantiate_classes(self) -> None:
        """Look at the run's directory before models are loaded for it."""
        if self.subcommand is not None and not getattr(rank_zero_only, "rank", 0):
            check_run_dir(self._checkpoint, self._get(self.config, "resume"), self._get(self.config, "run_dir"))

    def instantiate_classes(self) -> None:
        """Say why a class could not be made, without the parser's own stack."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Union subtypes" not in str(error):
                raise
            self.parser.error(str(error), error)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - LightningCLI's own
        """Parse; what the options leave open is as in the checkpoint's run, where there is a checkpoint."""
        given = [str(argument) for argument in (sys.argv[1:] if args is None else args)]
        self._command = ["tamis", *given]
        found = self._checkpoint_in(given)
        if found is None:
            super().parse_arguments(parser, given)
            found = self._checkpoint_parsed()
            if found is None:
                return
        self._checkpoint = found
        config = found.state.get("config")
        if not config:
            super().parse_arguments(parser, given)
            return
        place = next(number for number, argument in enumerate(given) if argument in self.subcommands())
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(options_to_take_over(config, given[place]))
            file.flush()
            # Before all others: of several configs a later one wins, and the command line over all.
            super().parse_arguments(parser, [*given[: place + 1], f"--config={file.name}", *given[place + 1 :]])
        self._forget(file.name)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - LightningCLI's own signature
        """Put the run into its directory, and the filter and the update behind the other callbacks."""
        start = self._start()
        self._tell_differences()
        config = self._get(self.config_init, "trainer", default={})
        if config.get("logger") is None:
            kwargs["logger"] = [
                EventsFile(start.run_dir, start.keep_until),
                MetricsFile(start.run_dir, start.keep_until),
            ]
        listed = config.get("callbacks") or []
        listed = listed if isinstance(listed, list) else [listed]  # `--trainer.callbacks NAME` gives one alone
        extra = [self._get(self.config_init, key) for key in ("filter", "update")]
        if self.subcommand == "fit" and config.get("enable_checkpointing") is not False and not config["fast_dev_run"]:
            checkpoints = self._get(self.config_init, "checkpoint")
            checkpoints.config = self._resolved()
            extra.append(checkpoints)
        if not config["fast_dev_run"]:
            extra.append(RunRecord(start.run_dir, self._resolved(), functools.partial(self._provenance, start)))
        kwargs["callbacks"] = [*listed, *(callback for callback in extra if callback)]
        return super().instantiate_trainer(**kwargs, default_root_dir=str(start.run_dir))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if self._checkpoint is not None:
            kwargs["ckpt_path"] = str(self._checkpoint.path)
        if kwargs.get("weights_only") is None:
            kwargs["weights_only"] = True  # a checkpoint is data, and data runs no code
        return kwargs

    def _parse_ckpt_path(self) -> None:
        """Leave the options alone: LightningCLI lets a checkpoint's old options win over the command line's."""

    def _checkpoint_in(self, args: list[str]) -> Found | None:
        """The checkpoint that the command line itself names, without which its options might not even parse."""
        resume, ckpt_path, run_dir = (option_in(args, name) for name in ("resume", "ckpt_path", "run_dir"))
        if resume == AUTO and run_dir is None:
            return None
        return checkpoint_of(resume, ckpt_path, run_dir, "")

    def _checkpoint_parsed(self) -> Found | None:
        """The checkpoint that a config names, or that is looked for below the runs of this model."""
        if not self.config.get("subcommand"):
            return None
        options = self.config[self.config.subcommand]
        resume, ckpt_path = options.get("resume"), options.get("ckpt_path")
        return checkpoint_of(resume, ckpt_path, options.get("run_dir") or _told_run_dir(), _name_of(options["model"]))

    def _start(self) -> Start:
        """A directory made by rank 0; processes that Lightning starts for the other ranks are told its name."""
        resume, run_dir = self._get(self.config, "resume"), self._get(self.config, "run_dir")
        if resume is not None and self.subcommand != "fit":
            raise ValueError(f"--resume goes on with training; for {self.subcommand} name a checkpoint by --ckpt_path")
        if getattr(rank_zero_only, "rank", 0):
            known = run_dir or _told_run_dir()
            if known is None:
                raise SystemExit("tamis: give every process the same --run_dir when you start the ranks yourself.")
            return Start(Path(known), self._checkpoint, None)
        start = start_of(self._checkpoint, resume, run_dir, _name_of(self._get(self.config, "model")))
        os.environ[_RUN_DIR_VARIABLE] = str(start.run_dir)
        return start

    def _resolved(self) -> str:
        """This run's options as YAML that runs again unchanged."""
        text: str = self._parser(self.subcommand).dump(self.config[str(self.subcommand)], skip_none=False)
        return text

    def _provenance(self, start: Start, trainer: Trainer) -> None:
        fingerprint = getattr(self.datamodule, "fingerprint", dict)
        checkpoint = None if self._checkpoint is None else str(self._checkpoint.path)
        seed = self._get(self.config, "seed_everything")
        seed = None if seed is False else int(seed)
        write_provenance(start.run_dir, self._command, seed, fingerprint(), trainer.world_size, checkpoint)

    def _tell_differences(self) -> None:
        """What is not as in the checkpoint's run; which counts is no secret either."""
        then = None if self._checkpoint is None else self._checkpoint.state.get("config")
        if then and self.subcommand == "fit":
            for text in redacted(differing_options(then, self._resolved())):
                rank_zero_info(f"not as in the checkpoint's run: {text}")

    def _forget(self, file: str) -> None:
        """The checkpoint's options came by a file that is gone: no later reader is to look for it."""
        options = self.config[self.config.subcommand]
        options["config"] = [path for path in options.get("config") or [] if str(path) != file] or None


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


def _told_run_dir() -> str | None:
    """The directory that rank 0 has made, in a process that it started for another rank."""
    return os.environ.get(_RUN_DIR_VARIABLE) if getattr(rank_zero_only, "rank", 0) else None


def _name_of(model: Any) -> str:  # noqa: ANN401 - jsonargparse's namespace
    return str(model.class_path).rsplit(".", 1)[-1]


def _version() -> str:
    from . import __version__

    return __version__


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
