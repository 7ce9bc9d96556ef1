"""How objects show themselves: one line, and HTML that is escaped, whole in itself and tells nothing personal."""

import re

import numpy as np
import pytest

from pathology import PatchStore, load_bundle, open_results, open_slide
from pathology.notebook import html_summary, html_table
from pathology.settings import GridSettings
from pathology.testing.constructed_results import write_constructed_results
from pathology.testing.random_bundle import write_random_bundle
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles


def shown(value):
    """The HTML, after what holds for all of it."""
    assert "\n" not in repr(value)
    html = value._repr_html_()
    assert not re.search(r"<script|https?:|src=\"(?!data:)|<i>", html)
    assert html.count("<div") == html.count("</div>")
    return html


def test_every_text_is_escaped():
    html = html_summary("<i>title</i>", {"<i>": "<i>&\n"}) + html_table("<i>", ["<i>"], [["<i>"]], "<i>")
    assert "<i>" not in html
    assert "&lt;i&gt;&amp; " in html


def test_a_bundle(tmp_path):
    folder = write_random_bundle(tmp_path / "example", classes=("a <i>", "b"))
    bundle = load_bundle(folder)
    assert repr(bundle) == "Bundle('example': classification, densenet121, 2 classes, patches of 64 px at 1 µm/px)"
    html = shown(bundle)
    assert "a &lt;i&gt;, b" in html
    assert "Research use only" in html


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    names = [f"s{i}" for i in range(22)]
    out = tmp_path_factory.mktemp("scored") / "<i>"
    return open_results(write_constructed_results(out, slide_ids=names, failed=("broken",)))


def test_results(results):
    assert repr(results) == "Results('<i>': 23 slides, 22 scored, 1 failed)"
    html = shown(results)
    assert html.count("<tr>") == 21  # a head and twenty slides
    assert "and 3 more" in html


def test_one_slide_of_results(results):
    html = shown(results["s0"])
    assert "data:image/jpeg;base64," in html
    assert results["s0"].record.prediction in html
    assert repr(results["s0"]) == f"SlideFolder('s0': {results['s0'].record.prediction})"
    failed = results["broken"]
    assert failed.record.error in repr(failed)
    assert "img" not in shown(failed)


def test_no_patient_is_named(results):
    slide = results["s0"]
    named = type(slide)(slide.folder, slide.record.model_copy(update={"patient_id": "P-4711"}))
    assert "P-4711" not in repr(named) + named._repr_html_()


def test_a_patch_store(tmp_path):
    path = write_svs(tmp_path / "<i>.svs", TissuePicture(1024, 768, seed=1), mpp=0.5)
    tissue = np.zeros((6, 8), bool)
    tissue[2:4, 2:6] = True
    with open_slide(path) as slide:
        grid = Grid(GridSettings(patch=64, stride=64, mpp=1.0), slide.dimensions, 0.5)
        plan = plan_tiles(grid, TissueShare(tissue, slide.dimensions))
        store = PatchStore.create(
            tmp_path / "made.zarr", plan, "reference", slide=path, fingerprint=slide.fingerprint, description={}
        )
    assert repr(store) == "PatchStore('made.zarr': 8 patches of 64 px at 1 µm/px, reference)"
    assert "&lt;i&gt;.svs, 1024 × 768 px" in shown(store)
    picture = store._map()
    pink = (picture != 255).any(axis=-1)
    assert picture.shape == (192, 256, 3)
    np.testing.assert_array_equal(pink, np.kron(tissue, np.ones((32, 32), bool)))
