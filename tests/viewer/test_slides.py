"""Open slides: few at a time, closed when nobody uses them."""

import pytest

from pathology.errors import SlideNotFoundError
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import write_constructed_results
from pathology.viewer.slides import OpenSlides


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    out = tmp_path_factory.mktemp("open") / "out"
    write_constructed_results(out, slide_ids=tuple("abcdef"), dimensions=(1200, 1000))
    return list(open_results(out))


def test_the_ones_used_longest_ago_are_closed(slides):
    held = OpenSlides()
    pyramids = []
    for slide in slides:
        with held.pyramid(slide.slide_id, slide) as pyramid:
            pyramids.append(pyramid)
    with pytest.raises(ValueError, match="closed"):
        pyramids[0].pixels(0, 0, 0, 8, 8)
    pyramids[-1].pixels(0, 0, 0, 8, 8)
    with held.pyramid("f", slides[-1]) as again:
        assert again is pyramids[-1]
    held.close()
    with pytest.raises(ValueError, match="closed"):
        pyramids[-1].pixels(0, 0, 0, 8, 8)


def test_one_in_use_stays_open(slides):
    held = OpenSlides()
    with held.pyramid("a", slides[0]) as first:
        for slide in slides[1:]:
            with held.pyramid(slide.slide_id, slide):
                pass
        first.pixels(0, 0, 0, 8, 8)
        held.close()
        first.pixels(0, 0, 0, 8, 8)
    with pytest.raises(ValueError, match="closed"):
        first.pixels(0, 0, 0, 8, 8)
    with pytest.raises(ValueError, match="closed"), held.pyramid("a", slides[0]):
        pass


def test_a_slide_that_is_nowhere(slides, tmp_path):
    from pathlib import Path

    path = Path(slides[0].record.path)
    away = path.rename(path.with_name("away.tiff"))
    try:
        with pytest.raises(SlideNotFoundError, match="is missing"), OpenSlides().pyramid("a", slides[0]):
            pass
        (tmp_path / path.name).hardlink_to(away)
        with OpenSlides((tmp_path,)).pyramid("a", slides[0]) as pyramid:
            assert pyramid.width == 1200
    finally:
        away.rename(path)


def test_the_stored_overview_serves_coarse_levels_of_the_same_pixels_only(slides, tmp_path):
    from pathology.viewer.slides import _overview

    slide = slides[0]
    with OpenSlides().pyramid("a", slide) as pyramid:
        assert pyramid._overview is not None
        assert pyramid._overview.shape == slide.overview.pixels.shape
    changed = type(slide)(slide.folder, slide.record.model_copy(update={"fingerprint": "0" * 64}))
    with OpenSlides().pyramid("a", changed) as pyramid:
        assert pyramid._overview is None
    nowhere = type(slide)(tmp_path, slide.record)
    with OpenSlides().pyramid("a", nowhere) as pyramid:
        assert _overview(nowhere, pyramid._reader) is None
