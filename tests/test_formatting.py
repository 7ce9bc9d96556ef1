"""Numbers as people read them."""

import math

import pytest

from pathology import formatting as wording
from pathology.path_text import valid_text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.0004, "< 0.1 %"),
        (0.031, "3.1 %"),
        (0.0996, "10 %"),
        (0.333, "33 %"),
        (0.994, "99 %"),
        (0.996, "> 99 %"),
        (0.99999, "> 99.9 %"),
        (1.0, "100 %"),
        (None, "not known"),
        (math.nan, "not known"),
    ],
)
def test_percent(share, text):
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("mm2", "text"),
    [(0, "0 mm²"), (0.002, "< 0.01 mm²"), (1.234, "1.23 mm²"), (12.34, "12.3 mm²"), (1234.5, "1,234 mm²")],
)
def test_area(mm2, text):
    assert wording.area(mm2) == text
    assert wording.area(None) == wording.area(math.nan) == "not known"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "< 0.1 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_duration(seconds, text):
    assert wording.duration(seconds) == text


def test_sizes():
    assert wording.scale(0.2498) == "0.25 µm/px"
    assert wording.scale(None) == "not known"
    assert wording.extent(2220, 2967, 0.499) == "1.1 × 1.5 mm"
    assert wording.extent(20, 60, 0.5) == "10 × 30 µm"
    assert [wording.length(n) for n in (0.5, 200, 1000, 2000, 20000)] == ["0.5 µm", "200 µm", "1 mm", "2 mm", "20 mm"]


@pytest.mark.parametrize(
    ("longest", "length"), [(1, 1), (1.99, 1), (2, 2), (4.99, 2), (5, 5), (999.9, 500), (1000, 1000), (0.003, 0.002)]
)
def test_round_length(longest, length):
    assert wording.round_length(longest) == pytest.approx(length)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("the file is empty", "The file is empty."),
        ("The file is empty.", "The file is empty."),
        ("slide.svs: the file is empty", "slide.svs: the file is empty."),
        ("slides/a.svs is empty", "slides/a.svs is empty."),
        ("µm are missing!", "µm are missing!"),
        ("", ""),
    ],
)
def test_reasons_become_sentences(reason, shown):
    assert wording.sentence(reason) == shown


def test_text_of_foreign_encodings_can_be_written():
    assert valid_text("a\udcffb\n😀") == "a\\udcffb\n😀"
    assert wording.one_line("a\r\nb\u2028c") == "a  b c"
