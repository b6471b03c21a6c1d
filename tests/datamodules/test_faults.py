import random

import pytest

from tamis.datamodules.faults import FAULT_KINDS, Fault, Row, drop_faults, dropped_rows, find_faults, lost_classes
from tamis.datamodules.image_table import ImageTable
from tamis.datamodules.manifest import MISSING, FileRecord, Manifest

Rows = list[tuple[str, str]]  # file and label


def table(rows: Rows, slices: list[int] | None = None, groups: list[str] | None = None) -> ImageTable:
    lines = list(range(2, len(rows) + 2))
    return ImageTable("train.csv", [file for file, _ in rows], [label for _, label in rows], lines, slices, groups)


def manifest(**pixels: str) -> Manifest:
    """Of files whose names are keywords, and whose pixels are the values; a few values are faults."""
    records = {}
    for file, value in pixels.items():
        record = FileRecord(file, 10, 20, value, value, 8, 8, 1, "L", 0.5, 0.3, 7, 200)
        if value == "missing":
            record = FileRecord(file, -1, 0, error=MISSING)
        elif value == "broken":
            record = FileRecord(file, 10, 20, error="truncated")
        elif value == "blank":
            record = record._replace(blank_slices="0", largest=7)
        records[file] = record
    return records


def kinds(faults: list[Fault]) -> list[tuple[str, list[str]]]:
    return [(fault.kind, fault.files) for fault in faults]


def test_a_sound_set_has_none() -> None:
    tables = {"train": table([("a", "x"), ("b", "y")]), "val": table([("c", "x")]), "test": table([("d", "y")])}
    faults = find_faults(tables, manifest(a="1", b="2", c="3", d="4"))
    assert faults == []
    assert drop_faults(tables, faults) == tables


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ("missing", "missing", "there is no such file"),
        ("broken", "unreadable", "truncated"),
        ("blank", "blank", "every pixel is 7"),
    ],
)
def test_what_is_wrong_with_one_image_by_itself(value: str, kind: str, text: str) -> None:
    tables = {"train": table([("a", "x"), ("b", "y")])}
    assert find_faults(tables, manifest(a="1", b=value)) == [Fault(kind, [Row("train", 1)], ["b"], text)]  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["missing", "broken", "blank"])
def test_the_most_basic_fault_hides_the_others(value: str) -> None:
    rows = [("a", "x"), ("b", "x"), ("c", "y"), ("z", "x")]
    tables = {
        "train": table(rows, groups=["p", "p", "p", "q"]),
        "val": table([("d", "x"), ("d", "y")], groups=["p"] * 2),
    }
    faults = find_faults(tables, manifest(a=value, b=value, c=value, d=value, z="9"))
    # One for each file; d is named twice.
    assert [(fault.files, fault.rows[0].split) for fault in faults] == [
        (["a"], "train"),
        (["b"], "train"),
        (["c"], "train"),
        (["d", "d"], "val"),
    ]
    assert len({fault.kind for fault in faults}) == 1


def test_copies_in_one_split_under_one_label_are_one_duplicate() -> None:
    tables = {"train": table([("c", "x"), ("b", "x"), ("a", "x"), ("d", "x")])}
    faults = find_faults(tables, manifest(a="1", b="1", c="1", d="2"))
    assert faults == [
        Fault(
            "duplicate",
            [Row("train", 2), Row("train", 1), Row("train", 0)],
            ["a", "b", "c"],
            "the same pixels 3 times as x",
        )
    ]
    assert drop_faults(tables, faults)["train"].files == ["a", "d"]  # the first by name, not by place


def test_a_file_named_twice_is_a_duplicate_too() -> None:
    tables = {"train": table([("a", "x"), ("b", "x"), ("a", "x")])}
    faults = find_faults(tables, manifest(a="1", b="2"))
    assert [(fault.kind, fault.rows, fault.text) for fault in faults] == [
        ("duplicate", [Row("train", 0), Row("train", 2)], "the same file 2 times as x")
    ]
    assert drop_faults(tables, faults)["train"].lines == [2, 3]


def test_of_a_label_conflict_all_go() -> None:
    tables = {"train": table([("a", "x"), ("b", "y"), ("c", "y"), ("d", "y"), ("e", "x"), ("e", "y")])}
    faults = find_faults(tables, manifest(a="1", b="1", c="1", d="2", e="3"))
    assert kinds(faults) == [("label_conflict", ["a", "b", "c"]), ("label_conflict", ["e", "e"])]
    assert faults[0].text == "the same pixels as x (1), y (2)"
    assert drop_faults(tables, faults)["train"].files == ["d"]


def test_of_copies_in_several_splits_training_keeps_one() -> None:
    tables = {
        "test": table([("t", "x"), ("u", "x"), ("w", "x")]),
        "val": table([("v", "x"), ("p", "x"), ("o", "x")]),
        "train": table([("z", "x"), ("y", "x"), ("q", "x")]),
    }
    faults = find_faults(tables, manifest(t="1", v="1", z="1", y="1", u="2", p="2", q="3", w="4", o="5"))
    assert kinds(faults) == [("two_splits", ["p", "u"]), ("two_splits", ["y", "z", "v", "t"])]
    assert faults[1].text == "the same pixels in train (2), val (1), test (1)"
    kept = drop_faults(tables, faults)
    assert {split: of_split.files for split, of_split in kept.items()} == {
        "train": ["y", "q"],
        "val": ["p", "o"],
        "test": ["w"],
    }


def test_the_same_file_in_two_splits() -> None:
    tables = {"train": table([("a", "x"), ("b", "x")]), "test": table([("a", "x"), ("c", "x")])}
    faults = find_faults(tables, manifest(a="1", b="2", c="3"))
    assert [(fault.kind, fault.text) for fault in faults] == [("two_splits", "the same file in train (1), test (1)")]


def test_copies_in_two_splits_with_two_labels_are_both() -> None:
    tables = {"train": table([("a", "x"), ("b", "x")]), "val": table([("c", "y"), ("d", "y")])}
    faults = find_faults(tables, manifest(a="1", b="2", c="1", d="3"))
    assert kinds(faults) == [("label_conflict", ["a", "c"]), ("two_splits", ["a", "c"])]
    kept = drop_faults(tables, faults)
    assert (kept["train"].files, kept["val"].files) == (["b"], ["d"])


def test_a_group_in_two_splits_stays_in_the_first() -> None:
    tables = {
        "val": table([("a", "x"), ("b", "x")], groups=["ann", "bob"]),
        "train": table([("c", "x"), ("d", "x")], groups=["ann", "cid"]),
        "test": table([("e", "x"), ("f", "x")], groups=["bob", "dan"]),
    }
    faults = find_faults(tables, manifest(a="1", b="2", c="3", d="4", e="5", f="6"))
    assert kinds(faults) == [("group_in_two_splits", ["b", "e"]), ("group_in_two_splits", ["c", "a"])]
    assert faults[1].text == "ann in train (1), val (1)"
    assert {split: of_split.files for split, of_split in drop_faults(tables, faults).items()} == {
        "val": ["b"],
        "train": ["c", "d"],
        "test": ["f"],
    }


def test_a_group_counts_by_what_other_faults_leave() -> None:
    tables = {
        "train": table([("a", "x"), ("b", "x")], groups=["ann", "bob"]),
        "val": table([("a2", "x"), ("c", "x")], groups=["ann", "cid"]),
    }
    # ann is in val with nothing but a copy, which stands under two_splits already.
    assert [kind for kind, _ in kinds(find_faults(tables, manifest(a="1", a2="1", b="2", c="3")))] == ["two_splits"]
    # That the copy in train stays must not hide that ann has another image in val.
    more = tables | {"val": table([("a2", "x"), ("c", "x"), ("d", "x")], groups=["ann", "cid", "ann"])}
    faults = find_faults(more, manifest(a="1", a2="1", b="2", c="3", d="4"))
    assert kinds(faults) == [("two_splits", ["a", "a2"]), ("group_in_two_splits", ["a", "d"])]


def test_slices_of_one_volume_are_images_of_their_own() -> None:
    volume = manifest(a="1", b="1", c="2", d="3")
    volume = {file: record._replace(depth=15, blank_slices="0 14") for file, record in volume.items()}
    volume["d"] = volume["d"]._replace(depth=1, blank_slices="")
    rows = [("a", "x"), ("a", "x"), ("a", "x"), ("c", "y"), ("c", "y"), ("c", "y"), ("d", "y")]
    tables = {
        "train": table(rows, slices=[1, 2, 0, 1, 15, -1, -1]),
        "val": table([("b", "x"), ("b", "x")], slices=[2, 3]),
    }
    faults = find_faults(tables, volume)
    assert [(fault.kind, fault.rows, fault.text) for fault in faults] == [
        ("unreadable", [Row("train", 4)], "there is no slice 15: it has 15, counted from 0"),
        ("unreadable", [Row("train", 5)], "it has 15 slices, and no column slice says which"),
        ("blank", [Row("train", 2)], "slice 0 is one value"),
        ("two_splits", [Row("train", 1), Row("val", 0)], "the same pixels in train (1), val (1)"),
    ]


def test_a_slice_of_an_image_that_has_none() -> None:
    tables = {"train": table([("a", "x"), ("a", "x"), ("b", "x")], slices=[0, 1, -1])}
    assert [fault.text for fault in find_faults(tables, manifest(a="1", b="2"))] == [
        "there is no slice 1: it has 1, counted from 0"
    ]


def random_set(seed: int) -> tuple[dict[str, ImageTable], Manifest]:
    draw = random.Random(seed)
    files = [f"f{number}" for number in range(40)]
    values = [*map(str, range(25)), "missing", "broken", "blank"]
    records = manifest(**{file: draw.choice(values) for file in files})
    tables = {}
    for split in ("train", "val", "test"):
        rows = [(draw.choice(files), draw.choice("xy")) for _ in range(20)]
        tables[split] = table(
            [*rows, (f"only-{split}", "x")], groups=[*(draw.choice("abcdefghijkl") for _ in rows), split]
        )
        records |= manifest(**{f"only-{split}": f"only {split}"})
    return tables, records


@pytest.mark.parametrize("seed", range(20))
def test_what_drop_leaves_has_no_faults_and_is_a_part_of_the_tables(seed: int) -> None:
    tables, records = random_set(seed)
    faults = find_faults(tables, records)
    kept = drop_faults(tables, faults)
    assert find_faults(kept, records) == []
    assert len(faults) > 5
    for split, of_split in kept.items():
        assert of_split.rows == tables[split].rows - len({row for row in dropped_rows(faults) if row.split == split})
        assert of_split.lines == sorted(of_split.lines or [])


@pytest.mark.parametrize("seed", range(20))
def test_nothing_depends_on_the_order_of_rows_and_splits(seed: int) -> None:
    tables, records = random_set(seed)
    draw = random.Random(seed)
    shuffled = {split: of.select(draw.sample(range(of.rows), of.rows)) for split, of in reversed(tables.items())}
    faults, others = find_faults(tables, records), find_faults(shuffled, records)
    assert [(fault.kind, fault.files, fault.text) for fault in faults] == [
        (fault.kind, fault.files, fault.text) for fault in others
    ]
    kept, other = drop_faults(tables, faults), drop_faults(shuffled, others)
    for split in tables:
        assert _contents(kept[split]) == _contents(other[split])


def _contents(of_split: ImageTable) -> list[tuple[str, str, str]]:
    return sorted(zip(of_split.files, of_split.labels, of_split.groups or [], strict=True))


def test_a_split_of_which_nothing_is_left_is_an_error() -> None:
    tables = {"train": table([("a", "x")]), "val": table([("b", "x"), ("c", "x")])}
    faults = find_faults(tables, manifest(a="1", b="1", c="blank"))
    with pytest.raises(ValueError, match=r"no image of the val split: all 2 are .*tamis\.datamodules\.audit"):
        drop_faults(tables, faults)


def test_classes_that_lose_their_training_images_are_known() -> None:
    tables = {"train": table([("a", "x"), ("b", "y"), ("c", "z")]), "val": table([("d", "y")])}
    faults = find_faults(tables, manifest(a="1", b="blank", c="missing", d="2"))
    assert lost_classes(tables, drop_faults(tables, faults)) == ["y", "z"]
    assert lost_classes(tables, tables) == []
    assert lost_classes({"val": tables["val"]}, {"val": tables["val"]}) == []


def test_a_file_without_a_record_is_an_error() -> None:
    with pytest.raises(KeyError, match="b"):
        find_faults({"train": table([("a", "x"), ("b", "x")])}, manifest(a="1"))


def test_kinds_are_in_the_order_of_the_report() -> None:
    assert FAULT_KINDS[:3] == ("missing", "unreadable", "blank")
    assert FAULT_KINDS[-1] == "group_in_two_splits"
