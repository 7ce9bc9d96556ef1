"""Any text can be drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.outputs.figures.text import MISSING, Lettering, drawable


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Präparat № 7 – 0,5 µm × 3 mm²", "Präparat № 7 – 0,5 µm × 3 mm²"),
        ("Tumour 🧬 bed", f"Tumour {MISSING} bed"),
        ("👩‍🔬👨‍👩‍👧", MISSING * 2),
        ("👍🏽❤️", f"{MISSING}❤"),
        ("標本", MISSING * 2),
        ("a\u202eb\ufeff", "ab"),
        ("line\nbreak\x00", "line break "),
        ("e\u0301", "é"),
        ("\udcff.svs", "\\udcff.svs"),
    ],
)
def test_drawable(text, drawn):
    assert drawable(text) == drawn


@given(text=st.text(max_size=60), width=st.integers(30, 400))
def test_lines_fit_and_lose_nothing(text, width):
    lettering = Lettering(16)
    lines = lettering.wrap(text, width)
    assert all(lettering.width(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(drawable(text).split())


def test_what_exceeds_the_lines_is_cut_with_an_ellipsis():
    lettering = Lettering(16, bold=True)
    lines = lettering.wrap("one two three four five six seven eight nine ten", 90, lines=2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert all(lettering.width(line) <= 90 for line in lines)


def test_long_names_break_after_a_mark_where_there_is_one():
    lettering = Lettering(16)
    name = "TCGA-DX-A1KU-01Z-00-DX1"
    first = lettering.wrap(name, lettering.width("TCGA-DX-A1K"))[0]
    assert first == "TCGA-DX-"
