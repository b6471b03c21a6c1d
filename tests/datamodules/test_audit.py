import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tamis.datamodules.audit import LARGEST, SMALLEST, build_parser, main
from tamis.datamodules.auditing import audit_images, audited_tables, summary
from tamis.datamodules.image_files import read_image
from tamis.datamodules.layouts import read_layout
from tamis.datamodules.manifest import read_manifest

NOTHING = dict.fromkeys(
    ("missing", "unreadable", "blank", "label_conflict", "two_splits", "duplicate", "group_in_two_splits"), 0
)


class PhantomSet:
    """A folder of phantoms whose CSVs can be changed, with a patient for every image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows = {split: self._read(split) for split in ("train", "val", "test")}

    def _read(self, split: str) -> list[list[str]]:
        with (self.root / f"RadiologyAI_{split}.csv").open(newline="") as handle:
            return [[*row, f"{split}-{number}"] for number, row in enumerate(list(csv.reader(handle))[1:])]

    def of_label(self, split: str, label: str) -> list[list[str]]:
        return [row for row in self.rows[split] if row[1] == label]

    def path(self, row: list[str]) -> Path:
        return self.root / row[0]

    def add(self, split: str, name: str, label: str, patient: str) -> Path:
        self.rows[split].append([f"radiology_ai/{name}", label, patient])
        return self.root / "radiology_ai" / name

    def save(self) -> Path:
        for split, rows in self.rows.items():
            with (self.root / f"RadiologyAI_{split}.csv").open("w", newline="") as handle:
                csv.writer(handle).writerows([["filename", "label", "patient_id"], *rows])
        return self.root


@pytest.fixture
def images(phantoms: Path, tmp_path: Path) -> PhantomSet:
    shutil.copytree(phantoms, tmp_path / "set", ignore=shutil.ignore_patterns(".tamis"))
    return PhantomSet(tmp_path / "set")


@pytest.fixture
def planted(images: PhantomSet) -> PhantomSet:
    """Every fault, each in files of its own."""
    ct, mr, us = images.of_label("train", "abd-normal"), images.of_label("train", "brain-normal"), images.rows["val"]
    # Two duplicates: the same bytes, and the same pixels written anew in three channels.
    shutil.copy(images.path(ct[0]), images.add("train", "CT/abd/normal/same.png", "abd-normal", "a"))
    with Image.open(images.path(ct[1])) as image:
        image.convert("RGB").save(images.add("train", "CT/abd/normal/again.png", "abd-normal", "b"), compress_level=1)
    # Five blank ones in two classes and splits, of the same bytes.
    for number, (split, label) in enumerate(
        [("train", "abd-normal")] * 2 + [("train", "usabd-gb"), ("val", "usabd-gb"), ("test", "abd-normal")]
    ):
        Image.new("L", (48, 48), 0).save(images.add(split, f"CT/abd/normal/blank{number}.png", label, f"c{number}"))
    # Unreadable: half a PNG, and a text. Missing: one of each of two splits.
    content = images.path(ct[0]).read_bytes()
    images.add("train", "CT/abd/normal/half.png", "abd-normal", "d").write_bytes(content[: len(content) // 2])
    images.add("test", "CT/abd/normal/text.png", "abd-normal", "e").write_text("no picture")
    images.add("train", "CT/abd/normal/gone.png", "abd-normal", "f")
    images.add("val", "CT/abd/normal/gone-too.png", "abd-normal", "g")
    # The same pixels under two labels, and a training image in the test set.
    shutil.copy(images.path(mr[0]), images.add("train", "MR/brain/edema/conflict.png", "brain-edema", "h"))
    shutil.copy(images.path(mr[1]), images.add("test", "MR/brain/normal/leak.png", "brain-normal", "i"))
    # A patient with other images in training and in validation.
    us[0][2] = ct[2][2]
    images.save()
    return images


PLANTED = NOTHING | {
    "missing": 2,
    "unreadable": 2,
    "blank": 5,
    "label_conflict": 1,
    "two_splits": 1,
    "duplicate": 2,
    "group_in_two_splits": 1,
}


def json_report(root: Path, file: Path, *options: str) -> tuple[int, dict[str, object]]:
    status = main([str(root), "--workers", "1", "--json", str(file), *options])
    return status, json.loads(file.read_text())


def test_an_untouched_folder_has_no_faults(phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "audit"
    status, found = json_report(phantoms, tmp_path / "found.json", "--folder", str(folder))
    assert status == 0
    assert found["faults"] == NOTHING
    assert (found["rows"], found["unnamed"]) == ([], [])
    assert "Faults: no faults" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["manifest.csv"]


def test_the_audit_finds_every_planted_fault_and_nothing_else(planted: PhantomSet, tmp_path: Path) -> None:
    status, found = json_report(planted.root, tmp_path / "found.json")
    assert status == 1
    assert found["faults"] == PLANTED
    rows = found["rows"]
    assert isinstance(rows, list)
    mr, ct = planted.of_label("train", "brain-normal"), planted.of_label("train", "abd-normal")
    named = {(row["kind"], row["split"], row["file"].removeprefix("radiology_ai/")) for row in rows}

    def originals(kind: str, *expected: list[str]) -> set[tuple[str, str, str]]:
        return {(kind, "train", row[0].removeprefix("radiology_ai/")) for row in expected}

    folder = "CT/abd/normal"
    assert named == {
        ("missing", "train", f"{folder}/gone.png"),
        ("missing", "val", f"{folder}/gone-too.png"),
        ("unreadable", "train", f"{folder}/half.png"),
        ("unreadable", "test", f"{folder}/text.png"),
        *(
            ("blank", split, f"{folder}/blank{n}.png")
            for n, split in enumerate(("train", "train", "train", "val", "test"))
        ),
        ("label_conflict", "train", "MR/brain/edema/conflict.png"),
        ("two_splits", "test", "MR/brain/normal/leak.png"),
        ("duplicate", "train", f"{folder}/same.png"),
        ("duplicate", "train", f"{folder}/again.png"),
        ("group_in_two_splits", "val", planted.rows["val"][0][0].removeprefix("radiology_ai/")),
        *originals("label_conflict", mr[0]),
        *originals("two_splits", mr[1]),
        *originals("duplicate", ct[0], ct[1]),
        *originals("group_in_two_splits", ct[2]),
    }
    assert found["unnamed"] == []


def test_what_the_policy_drop_leaves_passes_the_audit(planted: PhantomSet) -> None:
    tables = read_layout(planted.root).tables
    kept = audited_tables(planted.root, tables, "drop")
    assert summary(audit_images(planted.root, kept).faults) == "no faults"
    # Training: two copies, three blanks, half a file, a missing one and both of the conflict. Validation: a blank, a
    # missing one and the patient. Test: a blank, a text and the leak.
    assert {split: tables[split].rows - kept[split].rows for split in kept} == {"train": 9, "val": 3, "test": 3}


def test_every_process_gets_the_rows_without_a_look_at_the_images(planted: PhantomSet) -> None:
    tables = read_layout(planted.root).tables
    audit_images(planted.root, tables)
    expected = audited_tables(planted.root, tables, "drop")
    shutil.rmtree(planted.root / "radiology_ai")
    assert audited_tables(planted.root, tables, "drop") == expected
    shutil.rmtree(planted.root / ".tamis")
    with pytest.raises(ValueError, match="leaves no image of the train split"):
        audited_tables(planted.root, tables, "drop")


def test_keep_changes_nothing_and_reads_nothing(planted: PhantomSet) -> None:
    tables = read_layout(planted.root).tables
    assert audited_tables(planted.root, tables, "keep") == tables
    assert not (planted.root / ".tamis").exists()


def test_raise_names_counts_files_lines_and_the_way_out(planted: PhantomSet) -> None:
    tables = read_layout(planted.root).tables
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is below
        audited_tables(planted.root, tables, "raise")
    message = str(caught.value)
    counts = "2 missing, 2 unreadable, 5 blank, 1 label_conflict, 1 two_splits, 2 duplicate, 1 group_in_two_splits"
    line = len(planted.rows["val"]) + 1  # the last but none, below the header
    assert f"the images of {planted.root} have faults: {counts}" in message
    assert (
        f"missing: radiology_ai/CT/abd/normal/gone-too.png (RadiologyAI_val.csv, line {line}): there is no" in message
    )
    assert "  blank: 2 more" in message
    assert f"python -m tamis.datamodules.audit {planted.root}" in message
    assert str(planted.root / ".tamis" / "manifest.csv") in message


def test_raise_lets_a_sound_set_pass(images: PhantomSet) -> None:
    tables = read_layout(images.root).tables
    assert audited_tables(images.root, tables, "raise") == tables


def test_the_log_says_what_was_found_and_what_was_left_out(
    planted: PhantomSet, caplog: pytest.LogCaptureFixture
) -> None:
    tables = read_layout(planted.root).tables
    with caplog.at_level("INFO"):
        audit_images(planted.root, tables)
        audited_tables(planted.root, tables, "drop")
    assert "audit: 2 missing, 2 unreadable, 5 blank" in caplog.text
    assert str(planted.root / ".tamis" / "audit.csv") in caplog.text
    assert "audit: left out 9 of train, 3 of val, 3 of test" in caplog.text


def test_a_class_that_loses_its_training_images_is_a_warning(images: PhantomSet) -> None:
    for row in images.of_label("train", "usabd-gb"):
        images.path(row).unlink()
    tables = read_layout(images.root).tables
    with pytest.warns(UserWarning, match="these classes have none to train on: US__gb; repair"):
        kept = audited_tables(images.root, tables, "drop")
    assert "US__gb" not in kept["train"].labels
    assert "US__gb" in kept["val"].labels


def test_audit_csv_has_a_line_for_each_file_of_each_fault(planted: PhantomSet) -> None:
    tables = read_layout(planted.root).tables
    audit_images(planted.root, tables)
    with (planted.root / ".tamis" / "audit.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 + 2 + 5 + 2 + 2 + 4 + 2
    assert sum(row["dropped"] == "yes" for row in rows) == 15
    (half,) = [row for row in rows if row["file"].endswith("half.png")]
    assert "truncated" in half["text"]
    line = 2 + [row[0] for row in planted.rows["train"]].index(half["file"])
    assert half["where"] == f"RadiologyAI_train.csv, line {line}"
    assert (half["split"], half["row"], half["label"]) == ("train", str(line - 2), "CT__abd__normal")
    # An audit that finds nothing any more leaves no stale list.
    audit_images(planted.root, audited_tables(planted.root, tables, "drop"))
    assert len((planted.root / ".tamis" / "audit.csv").read_text().splitlines()) == 1


def test_a_finished_manifest_serves_where_nothing_can_be_written(planted: PhantomSet) -> None:
    tables = read_layout(planted.root).tables
    found = audit_images(planted.root, tables).faults
    folder = planted.root / ".tamis"
    (folder / "audit.csv").unlink()
    (folder / "audit.csv").mkdir()
    (folder / "audit.csv" / "in the way").touch()
    with pytest.warns(UserWarning, match="audit.csv was not written"):
        assert audit_images(planted.root, tables).faults == found


def test_images_that_nothing_names_are_told_and_no_fault(
    images: PhantomSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    removed = images.rows["train"].pop()[0]
    images.save()
    (images.root / ".hidden").mkdir()
    shutil.copy(images.root / removed, images.root / ".hidden" / "thumbnail.png")
    (images.root / "radiology_ai" / "notes.txt").touch()
    status, found = json_report(images.root, tmp_path / "found.json")
    assert (status, found["unnamed"]) == (0, [removed])
    assert f"nothing names 1 images that lie there, such as {removed}" in capsys.readouterr().out


# The command


def test_the_report_on_paper(planted: PhantomSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(planted.root), "--limit", "1"]) == 1
    printed = capsys.readouterr().out
    line = 2 + planted.rows["train"].index(planted.of_label("train", "brain-normal")[1])
    assert "blank 5: " in printed
    assert "  4 more" in printed
    assert "radiology_ai/CT/abd/normal/blank0.png (RadiologyAI_train.csv, line " in printed
    leak = f"(RadiologyAI_train.csv, line {line}) = radiology_ai/MR/brain/normal/leak.png (RadiologyAI_test.csv, line "
    assert leak in printed
    patient = f" and {planted.rows['val'][0][0]} (RadiologyAI_val.csv, line 2): "
    assert patient in printed
    rows = {split: len(planted.rows[split]) for split in planted.rows}
    left = f"{rows['train'] - 9} of {rows['train']} train, {rows['val'] - 3} of {rows['val']} val"
    assert f"--data.audit drop would leave {left}" in printed
    assert f"written: {planted.root}/.tamis/manifest.csv and {planted.root}/.tamis/audit.csv" in printed


def test_class_counts_are_folded_unless_asked(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path)]
    main([str(phantoms), *folder])
    folded = capsys.readouterr().out
    main([str(phantoms), *folder, "--classes"])
    whole = capsys.readouterr().out
    assert "\n3 more: --classes" in folded
    assert sum(line.startswith(("CT__", "MR__", "US__")) for line in folded.splitlines()) == LARGEST + SMALLEST
    counts = {
        line.split()[0]: line.split()[1:] for line in whole.splitlines() if line.startswith(("CT__", "MR__", "US__"))
    }
    assert len(counts) == 15
    assert counts["CT__abd__normal"] == ["7", "1", "1"]


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for position in range(2):
            path = tmp_path / split / "[red]class" / f"[b]{position}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * number + position).save(path)
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "[red]class  " in printed
    assert "  test/[red]class/[b]0.png (test): every pixel is 20" in printed


def test_printed_constants_are_those_of_the_training_images(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(phantoms), "--folder", str(tmp_path)])
    table = read_layout(phantoms).tables["train"]
    pixels = np.stack([read_image(phantoms / file).numpy() for file in table.files]) / 255
    assert f"--data.mean {pixels.mean():.4f} --data.std {pixels.std():.4f}" in capsys.readouterr().out


def test_policy_drop_counts_and_measures_what_is_left(planted: PhantomSet, tmp_path: Path) -> None:
    _, kept = json_report(planted.root, tmp_path / "a.json")
    _, dropped = json_report(planted.root, tmp_path / "b.json", "--policy", "drop")
    assert kept["levels"]["all"]["images"] - dropped["levels"]["all"]["images"] == 15 - 4  # type: ignore[index]
    assert kept["levels"]["train"]["mean"] < dropped["levels"]["train"]["mean"]  # type: ignore[index] # three black


def test_misuse_is_status_two(tmp_path: Path, images: PhantomSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main([str(images.root), "--group-column", "colour"]) == 2
    assert "has no column colour" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert main([str(tmp_path / "other.npz")]) == 2
    assert "train_labels" in capsys.readouterr().err
    assert main([str(tmp_path / "other.npz"), "--group-column", "patient"]) == 2
    assert "no columns" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([str(images.root), "--limit", "-1"])
    assert caught.value.code == 2


def test_every_option_has_a_help_text() -> None:
    assert all(action.help for action in build_parser()._actions)


def test_as_a_module_it_runs_without_warnings(phantoms: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "tamis.datamodules.audit", str(phantoms)]
    done = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Faults: no faults" in done.stdout
    assert len(read_manifest(tmp_path)) == 60
