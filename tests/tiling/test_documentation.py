"""The page about tiling speaks of the store and the codec as they are."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks.report import write_section
from pathology.slide.readers.tile_encoding import TileEncoding
from pathology.tiling import store
from pathology.tiling.plan import ExcludedPatches
from pathology.tiling.stored_tile_codec import CODEC_NAME, StoredTileCodec

PAGE = (Path(__file__).parents[2] / "docs" / "tiling.md").read_text(encoding="utf-8")


def test_it_names_every_array():
    described = set(re.findall(r"`(\w+)`", PAGE.split("## The store")[1].split("### Modes")[0]))
    written = set(re.findall(r"^``(\w+)``", store.__doc__, re.MULTILINE))
    left_out = {f"left_out_{field.name}" for field in fields(ExcludedPatches)}
    assert left_out <= written
    assert written - left_out <= described


def test_the_codecs_metadata_are_those_shown():
    shown = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL).group(1))
    assert shown["name"] == CODEC_NAME
    codec = StoredTileCodec(TileEncoding("jpeg", transformed=True, tables=b"\xff\xd8\x00"))
    assert codec.to_dict()["configuration"].keys() == shown["configuration"].keys()
    assert StoredTileCodec.from_dict(codec.to_dict()) == codec


def test_an_incomplete_codec_configuration_is_refused():
    for wrong in (
        {},
        {"compression": "jpeg", "transformed": None},
        {"compression": "gif", "transformed": None, "tables": ""},
    ):
        with pytest.raises(ValueError):
            StoredTileCodec.from_dict({"name": CODEC_NAME, "configuration": wrong})


def test_its_python_runs():
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/tiling.md", "exec"), {})


def test_measured_sections_are_replaced_whole(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: a -->\nold\nolder\n<!-- end -->\nafter\n")
    write_section(page, "a", "new")
    assert page.read_text() == "before\n<!-- measured: a -->\nnew\n<!-- end -->\nafter\n"
    with pytest.raises(ValueError, match="no section"):
        write_section(page, "b", "new")
