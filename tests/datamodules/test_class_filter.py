"""Keeping some classes and leaving out others."""

from __future__ import annotations

import pytest

from tamis.datamodules.class_filter import filter_classes
from tamis.datamodules.radimagenet_classes import CLASS_NAMES

NAMES = ["CT__abd__normal", "CT__lung__Nodule", "CT__lung__normal", "MR__knee__normal", "US__gb"]


def test_patterns_keep_and_leave_out() -> None:
    assert filter_classes(NAMES) == NAMES
    assert filter_classes(NAMES, ["CT__*"]) == NAMES[:3]
    assert filter_classes(NAMES, ["US__gb", "CT__lung__*"]) == ["CT__lung__Nodule", "CT__lung__normal", "US__gb"]
    assert filter_classes(NAMES, None, ["*__normal"]) == ["CT__lung__Nodule", "US__gb"]
    assert filter_classes(NAMES, ["CT__*"], ["*__Nodule"]) == ["CT__abd__normal", "CT__lung__normal"]


def test_radimagenets_anatomies() -> None:
    assert len(filter_classes(CLASS_NAMES, ["MR__knee__*"])) == 18
    assert len(filter_classes(CLASS_NAMES, None, ["MR__knee__*"])) == 165 - 18
    assert filter_classes(CLASS_NAMES, ["*__ca++_tendinosis", "US__gb"]) == ["MR__shoulder__ca++_tendinosis", "US__gb"]


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("ct__lung__*", "near it are CT__lung__Nodule, CT__lung__normal"),
        ("MR_knee_*", "near it are MR__knee__normal"),
        ("?", "there are CT__abd__normal, CT__lung__Nodule, CT__lung__normal ..."),
    ],
)
def test_a_pattern_that_fits_nothing_names_what_is_near(pattern: str, near: str) -> None:
    for option, patterns in (("only", (["US__gb", pattern], None)), ("without", (None, [pattern]))):
        with pytest.raises(ValueError, match=r"no class fits the pattern") as error:
            filter_classes(NAMES, *patterns)
        assert f"the pattern {pattern} of {option}; {near}" in str(error.value)


def test_two_classes_must_be_left() -> None:
    with pytest.raises(ValueError, match=r"of 5 classes, only: US__\* and without: nothing leave one class, US__gb"):
        filter_classes(NAMES, ["US__*"])
    with pytest.raises(ValueError, match=r"only: nothing and without: \* leave no class; a classifier needs two"):
        filter_classes(NAMES, None, ["*"])
