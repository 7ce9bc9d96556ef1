"""Files and folders from elsewhere are read within bounds, and every failure is one of the package's errors."""

import os

import pytest

from pathology.errors import BundleError, CorruptSlideError, InputTableError, PathologyError, StoreError
from pathology.input_files import (
    MOST_LEVELS,
    files_below,
    read_json,
    read_limited,
    read_yaml,
    reading,
    require_regular,
    walk_folder,
)
from pathology.text_tables import read_text_table


@pytest.mark.parametrize(
    "error", [NotImplementedError("CQ"), MemoryError(), RecursionError(), AttributeError(""), OSError()]
)
def test_whatever_a_reader_raises_is_a_reason(tmp_path, error):
    with (
        pytest.raises(CorruptSlideError, match=r"a\.svs: the file cannot be read \("),
        reading(tmp_path / "a.svs", CorruptSlideError),
    ):
        raise error


def test_the_packages_own_errors_pass_unchanged(tmp_path):
    own = InputTableError("line 3 is torn")
    with pytest.raises(InputTableError) as caught, reading(tmp_path, CorruptSlideError):
        raise own
    assert caught.value is own


def test_an_interrupt_is_no_damaged_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), reading(tmp_path, CorruptSlideError):
        raise KeyboardInterrupt


@pytest.mark.timeout(20)
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path, said in (
        (tmp_path / "pipe.csv", "a named pipe"),
        (tmp_path, "a folder"),
        (tmp_path / "none", "not found"),
        (tmp_path / "a\0b", "null"),
        (tmp_path / ("n" * 300), "too long"),
    ):
        with pytest.raises(StoreError, match=said):
            require_regular(path, StoreError)
    with pytest.raises(StoreError, match="a device"):
        read_limited(type(tmp_path)("/dev/zero"), StoreError, 100)
    with pytest.raises(InputTableError, match="a named pipe"):
        read_text_table(tmp_path / "pipe.csv", {"path": []}, required=["path"], kind="manifest")


def test_json_is_bounded_in_size_and_depth(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(StoreError, match="nested more than"):
        read_json(path, StoreError)
    path.write_text('{"text": "' + '[{\\"' * 500 + '"}')  # brackets within text are no nesting
    assert len(read_json(path, StoreError)["text"]) == 1500
    with pytest.raises(StoreError, match="larger than"):
        read_json(path, StoreError, most=1000)
    path.write_bytes(b"\xff{}")
    with pytest.raises(StoreError, match="not valid JSON"):
        read_json(path, StoreError)


@pytest.mark.timeout(20)
def test_a_folder_is_walked_once_however_many_links_lead_to_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").symlink_to(tmp_path)
    (tmp_path / "a" / "two").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert [content.folder.name for content in walk_folder(tmp_path)] == [tmp_path.name, "a"]


def test_folders_deeper_than_any_archive_are_named_and_not_searched(tmp_path):
    deep = tmp_path
    for _ in range(300):
        deep /= "d"
        os.mkdir(deep)  # noqa: PTH102 - each is a child of the last
    walked = list(walk_folder(tmp_path))
    assert len(walked) == MOST_LEVELS + 2
    assert [content.problem for content in walked][-2:] == [
        "",
        f"the folder is nested more than {MOST_LEVELS} levels deep and was not searched",
    ]
    with pytest.raises(PathologyError, match="nested more than"):
        files_below(tmp_path, StoreError)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    listed = os.listdir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr("os.listdir", refuse)
    assert [content.problem for content in walk_folder(tmp_path)] == [
        "",
        "the folder cannot be read (Permission denied)",
    ]


@pytest.mark.parametrize("text", ["[" * 5000, "a: &a [*a", "\0", "- " * 3000 + "x"])
def test_yaml_that_cannot_be_read_is_one_error(tmp_path, text):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(BundleError, match="not valid YAML"):
        read_yaml(path, BundleError)
