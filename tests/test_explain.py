"""Complaints of the configuration parser, as jsonargparse words them, and what is left of them."""

from __future__ import annotations

import pytest
import torch

from tamis.datamodules.jsonl import read_jsonl
from tamis.explain import explain, nearest_key, raised_by_tamis
from tamis.functional import kl_divergence

KEYS = ["trainer.max_epochs", "trainer.max_steps", "run_dir", "model.num_samples", "filter", "data.batch_size"]
CLASSES = ["PPOUpdate", "ReinforceUpdate", "CodePolicy"]


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        ("run_dirr", "run_dir"),
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("num_sample", "model.num_samples"),  # by its last part
        ("optimizer.batch_sizes", "data.batch_size"),
        ("filters", "filter"),
        ("trainer.nonsense", None),
        ("xyz", None),
    ],
)
def test_the_nearest_key(unknown: str, expected: str | None) -> None:
    assert nearest_key(unknown, KEYS) == expected


def test_nothing_is_near_to_nothing() -> None:
    assert nearest_key("run_dir", []) is None


def test_an_unknown_flag_names_the_nearest_one() -> None:
    text = explain("unrecognized arguments: --trainer.max_epoch 3", KEYS, CLASSES)
    assert text == "unrecognized arguments: --trainer.max_epoch 3\n  Did you mean 'trainer.max_epochs'?"


@pytest.mark.parametrize(
    "message",
    [
        "Subcommand 'fit' does not accept option 'run_dirr'",
        "Validation failed: does not accept option 'run_dirr'",
    ],
)
def test_an_unknown_key_of_a_file_names_the_nearest_one(message: str) -> None:
    assert explain(message, KEYS, CLASSES) == f"{message}\n  Did you mean 'run_dir'?"


def test_an_unknown_class_is_compared_with_classes() -> None:
    message = "Expected a dot import path string: PPOUpdat"
    assert explain(message, [*KEYS, "PPOUpdated"], CLASSES) == f"{message}\n  Did you mean 'PPOUpdate'?"


def test_an_argument_of_a_class_is_compared_with_its_constructor() -> None:
    """The last class that is named is the one at fault; the command's own keys have no part in it."""
    message = (
        "Problem with given class_path 'tamis.modules.CodePolicy':\n"
        "  Problem with given class_path 'tamis.callbacks.PPOUpdate':\n"
        "    Option 'clip_rang' is not accepted"
    )
    assert explain(message, ["clip_rang_of_another"], CLASSES) == f"{message}\n  Did you mean 'clip_range'?"
    assert explain("Option 'clip_rang' is not accepted", KEYS, CLASSES) == "Option 'clip_rang' is not accepted"


def test_the_cause_stays_and_the_noise_goes() -> None:
    message = (
        'Parser key "update":\n'
        "  Does not validate against any of the Union subtypes\n"
        "  Subtypes: [<class 'tamis.callbacks.PPOUpdate'>, <class 'NoneType'>]\n"
        "  Errors:\n"
        "    - Problem with given class_path 'tamis.callbacks.PPOUpdate':\n"
        "        - Expected a <class 'int'>. Got value: many\n"
        "    - Expected a <class 'NoneType'>. Got value: ...\n"
        "  Given value type: <class 'dict'>\n"
        "  Given value: {'class_path': 'tamis.callbacks.PPOUpdate'}\n\n"
    )
    assert explain(message, KEYS, CLASSES).splitlines() == [
        'Parser key "update":',
        "    Problem with given class_path 'tamis.callbacks.PPOUpdate':",
        "        Expected a <class 'int'>. Got value: many",
    ]


def test_a_message_that_is_all_cause_is_left_alone() -> None:
    assert explain("there is no model folder 'x'", KEYS, CLASSES) == "there is no model folder 'x'"


def test_without_a_near_key_nothing_is_guessed() -> None:
    assert explain("unrecognized arguments: --zzz", KEYS, CLASSES) == "unrecognized arguments: --zzz"


def test_only_our_own_errors_speak_for_themselves() -> None:
    with pytest.raises(FileNotFoundError) as ours:
        read_jsonl("nowhere.jsonl")
    with pytest.raises(ValueError, match="invalid literal") as another:
        int("x")
    with pytest.raises(RuntimeError, match="size of tensor") as bug:
        kl_divergence(torch.zeros(2), torch.zeros(3))
    assert raised_by_tamis(ours.value)
    assert not raised_by_tamis(another.value)
    assert not raised_by_tamis(bug.value)
