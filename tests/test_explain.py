"""Complaints of the configuration parser, as jsonargparse words them, and what is left of them."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from tamis.datamodules.jsonl import read_jsonl
from tamis.explain import explain, nearest_key, raised_by_tamis, told
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
        ("modle.class_path", "model"),  # by its first
        ("trainr.max_epochs", "trainer.max_epochs"),
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


def test_a_class_where_another_kind_belongs_is_not_proposed_again() -> None:
    text = explain("Expected a dot import path string: PPOUpdate", KEYS, CLASSES)
    assert text.endswith("\n  PPOUpdate is a class of another kind than this key takes.")


def test_the_value_is_named_where_no_alternative_names_it() -> None:
    text = explain("Does not validate against any of the Union subtypes\n  Given value: fp8", KEYS, CLASSES)
    assert text.strip() == "Got value: fp8"
    assert "fp8" not in explain("Expected an int. Got value: 5\n  Given value: fp8", KEYS, CLASSES)
    assert "Namespace" not in explain("too few\n  Given value: Namespace(a=1)", KEYS, CLASSES)


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
    assert told(ours.value) == str(ours.value)
    for error in (another.value, bug.value):
        assert not raised_by_tamis(error)
        assert told(error) is None


def test_libraries_that_refuse_an_option_get_the_key_added() -> None:
    with pytest.raises(ValueError, match="learning rate") as rate:
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=-1)
    text = "Invalid learning rate: -1. It is an option of an optimizer or schedule of the model, such as"
    assert str(told(rate.value)).startswith(text)
    with pytest.raises(MisconfigurationException) as devices:
        Trainer(accelerator="cpu", devices=0)
    assert str(told(devices.value)).endswith("--trainer.devices, --trainer.strategy and --trainer.precision.")
    assert not raised_by_tamis(devices.value)


def test_a_checkpoint_of_another_model_is_three_differences_long() -> None:
    wide = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    with pytest.raises(RuntimeError) as misfit:
        wide.load_state_dict(torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Linear(2, 5)).state_dict())
    text = str(told(misfit.value))
    assert text.startswith("the checkpoint is of another model: 0.weight is [3, 1] there and [3, 2] here; 1.weight is")
    assert text.endswith("[4] here. Give --ckpt_path with the model and the data that it was written with")
    with pytest.raises(RuntimeError) as keys:
        wide.load_state_dict({"2.bias": torch.zeros(1)})
    assert ": it lacks 0.weight; it lacks 0.bias; it lacks 1.weight; and 2 more. Give" in str(told(keys.value))
    with pytest.raises(RuntimeError) as surplus:
        wide.load_state_dict(wide.state_dict() | {"2.bias": torch.zeros(1)})
    assert "another model: the model has no 2.bias. Give" in str(told(surplus.value))
    assert len(text.splitlines()) == 1
