"""Commands that write a folder refuse one that another run holds, before they compute anything."""

import pytest

from pathology.cli.export import run as export
from pathology.errors import OutputError
from pathology.folder_lock import locked_folder
from pathology.scoring.tile import tile
from pathology.testing.constructed_results import write_constructed_results
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


def test_tile(tmp_path):
    slide = write_svs(tmp_path / "a.svs", TissuePicture(300, 300, tissue=0.7), factors=(1,))
    with locked_folder(tmp_path / "out"), pytest.raises(OutputError, match="another run"):
        tile(slide, tmp_path / "out")


def test_export(tmp_path):
    write_constructed_results(tmp_path / "results", slide_ids=("a",))
    options = {"to": tmp_path / "to", "slides": [], "class_name": None, "width": 512, "smooth": None}
    with locked_folder(tmp_path / "to"), pytest.raises(OutputError, match="another run"):
        export(tmp_path / "results", ["geojson"], **options)
    assert export(tmp_path / "results", ["geojson"], **options) == 0
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["a.geojson"]
