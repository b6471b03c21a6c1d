"""RadImageNet's classes: the list, what names say, and which class a file and a label mean."""

from __future__ import annotations

from collections import Counter

import pytest

from tamis.datamodules.phantoms import CLASSES
from tamis.datamodules.radimagenet_classes import (
    CLASS_NAMES,
    CLASS_PARTS,
    canonical_class,
    choose_classes,
    class_columns,
    class_of_path,
    classes_of_label,
)

#: Pathologies of each of the eleven anatomies, as counted in the publication's table.
SIZES = {
    ("CT", "abd"): 28,
    ("CT", "lung"): 6,
    ("MR", "af"): 25,
    ("MR", "brain"): 10,
    ("MR", "hip"): 14,
    ("MR", "knee"): 18,
    ("MR", "mriabd"): 26,
    ("MR", "shoulder"): 14,
    ("MR", "spine"): 9,
    ("US", "usabd"): 13,
    ("US", "usthyroid"): 2,
}


def test_there_are_165_classes_in_eleven_anatomies() -> None:
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == sum(SIZES.values()) == 165
    assert Counter(parts[:2] for parts in CLASS_PARTS.values()) == SIZES


def test_the_order_is_that_of_image_folder() -> None:
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES, key=str.encode)
    # By hand: 28 of CT's abdomen (0 to 27), 6 of the lung with its four capitals first (28 to 33), then MR's abdomen
    # (34 to 59) and MR's ankle and foot, whose first is the one capital (60). Ultrasound's 15 are 150 to 164.
    golden = {
        0: "CT__abd__abnormal_entire_organ",
        27: "CT__abd__uterine_pathology",
        28: "CT__lung__Airspace_opacity",
        32: "CT__lung__interstitial_lung_disease",
        34: "MR__abd__adrenal_pathology",
        60: "MR__af__Plantar_plate_tear",
        61: "MR__af__achilles_pathology_",
        149: "MR__spine__scoliosis",
        150: "US__aorta",
        154: "US__gb",
        164: "US__uterus",
    }
    assert {index: CLASS_NAMES[index] for index in golden} == golden


def test_odd_spellings_are_kept() -> None:
    odd = {"MR__shoulder__ca++_tendinosis", "MR__abd__liver_disease_", "MR__spine__foraminal_pathlogy"}
    assert odd | {"MR__brain__pituatary_lesion", "MR__hip__abductor_pathology_"} <= set(CLASS_NAMES)


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("radiology_ai/CT/abd/normal/abd-normal039513.png", "CT__abd__normal"),
        ("radiology_ai/MR/af/hematoma/foot079779.png", "MR__af__hematoma"),
        ("radiology_ai/MR/abd/normal/x.png", "MR__abd__normal"),
        ("radiology_ai/MR/mriabd/normal/x.png", "MR__abd__normal"),
        ("radiology_ai/US/gb/usn309850.png", "US__gb"),
        ("US/thyroid_nodule/usn418235.png", "US__thyroid_nodule"),
        ("rRadImagenet1L/train/MR__shoulder__ca++_tendinosis/x.png", "MR__shoulder__ca++_tendinosis"),
        ("train/MR__mriabd__liver_disease_/x.png", "MR__abd__liver_disease_"),
        ("val/US__gb/x.png", "US__gb"),
        ("CT/abd/Normal/x.png", None),
        ("CT/knee/acl_pathology/x.png", None),
        ("gb/x.png", None),
        ("US__gb", None),
        ("", None),
    ],
)
def test_class_of_a_path(filename: str, name: str | None) -> None:
    assert class_of_path(filename) == name


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("abd-normal", ["CT__abd__normal", "MR__abd__normal"]),
        ("abd-gallstone", ["CT__abd__gallstone"]),
        ("mriabd-normal", ["MR__abd__normal"]),
        ("usabd-gb", ["US__gb"]),
        ("usthyroid-thyroid", ["US__thyroid"]),
        ("mr-abd-normal", ["MR__abd__normal"]),
        ("CT-lung-Nodule", ["CT__lung__Nodule"]),
        ("MR__mriabd__normal", ["MR__abd__normal"]),
        ("lung-nodule", []),
        ("normal", []),
        ("usabd-thyroid", []),
        ("gb", []),
        ("-normal", []),
        ("", []),
    ],
)
def test_classes_of_a_label(label: str, names: list[str]) -> None:
    assert classes_of_label(label) == names


def test_every_class_is_known_by_its_folders_and_by_its_label() -> None:
    for name, parts in CLASS_PARTS.items():
        folders = name.replace("__", "/")
        label = f"{parts.anatomy}-{parts.pathology}"
        assert class_of_path(f"radiology_ai/{folders}/x.png") == name
        assert classes_of_label(label)[0] == name
        assert canonical_class(f"radiology_ai/{folders}/x.png", label) == name
        assert canonical_class("elsewhere/x.png", label) == name


def test_every_phantom_has_a_class() -> None:
    for kind in CLASSES:
        assert canonical_class(f"radiology_ai/{kind.folder}/x.png", kind.label) == kind.folder.replace("/", "__")


def test_folders_decide_where_a_label_can_mean_two() -> None:
    assert canonical_class("radiology_ai/MR/abd/normal/x.png", "abd-normal") == "MR__abd__normal"
    assert canonical_class("radiology_ai/CT/abd/normal/x.png", "abd-normal") == "CT__abd__normal"
    assert canonical_class("x.png", "abd-normal") == "CT__abd__normal"


def test_folders_decide_where_the_anatomy_has_an_unknown_name() -> None:
    assert canonical_class("radiology_ai/MR/af/hematoma/foot1.png", "ankle_foot-hematoma") == "MR__af__hematoma"
    assert canonical_class("radiology_ai/MR/af/hematoma/foot1.png", "ankle_foot-normal") is None
    assert canonical_class("x.png", "ankle_foot-hematoma") is None


def test_a_label_that_contradicts_its_folder_is_believed() -> None:
    assert canonical_class("radiology_ai/CT/abd/normal/x.png", "abd-liver_lesion") == "CT__abd__liver_lesion"
    assert canonical_class("radiology_ai/CT/abd/normal/x.png", "abd-unheard_of") is None
    assert canonical_class("radiology_ai/CT/abd/normal/x.png", "normal") is None


# Columns


def test_columns_say_modality_anatomy_and_pathology() -> None:
    assert class_columns(["CT__abd__normal", "MR__abd__normal", "US__gb", "US__thyroid_nodule", "cat"]) == {
        "modality": ["CT", "MR", "US", "US", "other"],
        "anatomy": ["abd", "mriabd", "usabd", "usthyroid", "other"],
        "pathology": ["normal", "normal", "gb", "thyroid_nodule", "other"],
    }


def test_a_way_that_puts_all_into_one_group_is_left_out() -> None:
    assert class_columns(["CT__abd__normal", "CT__lung__normal"]) == {"anatomy": ["abd", "lung"]}
    assert class_columns(["cat", "dog"]) == {}
    assert class_columns([]) == {}


# Which classes a problem has


def test_classes_are_pinned_if_all_found_ones_are_among_them() -> None:
    assert choose_classes(["US__gb", "CT__abd__normal"]) == list(CLASS_NAMES)
    assert choose_classes(["US__gb", "cat"]) == ["US__gb", "cat"]
    assert choose_classes([]) == []


def test_classes_may_be_those_found() -> None:
    assert choose_classes(["US__gb", "CT__abd__normal", "US__gb"], "found") == ["CT__abd__normal", "US__gb"]


def test_the_pinned_list_names_what_it_lacks() -> None:
    assert choose_classes(["US__gb"], "pinned") == list(CLASS_NAMES)
    with pytest.raises(ValueError, match=r"1 of those found are not among them: cat; set class_list: found"):
        choose_classes(["US__gb", "cat"], "pinned")
