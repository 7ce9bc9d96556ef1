"""The journal: what is finished is read back, what is damaged or outdated is not believed."""

import json
import zlib

import pytest

from pathology.errors import OutputError
from pathology.outputs.results.journal import JOURNAL, Journal
from pathology.outputs.results.record import read_slide_record, write_slide_record


@pytest.fixture
def folder(tmp_path, make):
    """Write three finished slides and their journal."""
    journal = Journal(tmp_path / JOURNAL)
    for name in ("a", "b", "ü c"):
        (tmp_path / "slides" / name).mkdir(parents=True)
        write_slide_record(tmp_path / "slides" / name, make.result(slide_id=name))
        journal.append(tmp_path / "slides" / name)
    return tmp_path


def hidden(folder, monkeypatch):
    """Return a function that reads a record from the journal alone: the slide's own is not read."""

    def refuse(where):
        raise AssertionError(f"{where} was read")

    monkeypatch.setattr("pathology.outputs.results.journal.read_slide_record", refuse)
    return lambda name: Journal(folder / JOURNAL).record(folder / "slides" / name)


def test_the_journal_says_what_the_records_say(folder, monkeypatch):
    expected = {name: read_slide_record(folder / "slides" / name) for name in ("a", "b", "ü c")}
    read = hidden(folder, monkeypatch)
    assert {name: read(name) for name in expected} == expected


@pytest.mark.parametrize("damage", ["cut off", "one byte changed", "a line of others", "nothing"])
def test_a_damaged_line_spoils_no_other_and_is_not_believed(folder, monkeypatch, damage):
    path = folder / JOURNAL
    whole = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(whole[:-40])
        Journal(path).append(folder / "slides" / "a")
    elif damage == "one byte changed":
        path.write_bytes(whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:])
    elif damage == "a line of others":
        path.write_bytes(b"hello\n[1\n00000000 \n" + b"\xff" * 100 + whole)
    damaged = damage in ("cut off", "one byte changed")
    assert Journal(path).record(folder / "slides" / "ü c").result.slide_id == "ü c"
    read = hidden(folder, monkeypatch)
    assert read("a").result.slide_id == "a"
    assert read("b").result.slide_id == "b"
    if damaged:
        with pytest.raises(AssertionError, match="was read"):
            read("ü c")
    else:
        assert read("ü c").result.slide_id == "ü c"


def test_a_record_written_since_is_the_one_that_counts(folder, make):
    write_slide_record(folder / "slides" / "a", make.result(slide_id="a", patient_id="another"))
    assert Journal(folder / JOURNAL).record(folder / "slides" / "a").result.patient_id == "another"


def test_a_slide_without_a_record_is_not_finished(folder):
    (folder / "slides" / "a" / "slide.json").unlink()
    with pytest.raises(FileNotFoundError):
        Journal(folder / JOURNAL).record(folder / "slides" / "a")


def test_a_line_of_right_checksum_and_wrong_content_is_not_believed(folder):
    path = folder / JOURNAL
    lines = []
    for line in path.read_bytes().split(b"\n")[1:]:
        body = line[9:].split(b"\t")[0] + b"\t" + json.dumps({"result": [], "files": 3}).encode()
        lines.append(b"\n%08x " % zlib.crc32(body) + body)
    path.write_bytes(b"".join(lines))
    assert Journal(path).record(folder / "slides" / "a").result.slide_id == "a"


def test_no_link_is_followed(folder, tmp_path):
    path = folder / JOURNAL
    path.unlink()
    (tmp_path / "other").write_text("of somebody")
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OutputError):
        Journal(path).append(folder / "slides" / "a")
    assert (tmp_path / "other").read_text() == "of somebody"
