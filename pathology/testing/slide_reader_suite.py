"""Test suite for slide readers; inherit from it.

::

    class TestMyReader(SlideReaderSuite):
        @pytest.fixture(scope="class")
        @classmethod
        def slide(cls, tmp_path_factory):
            return write_svs(tmp_path_factory.mktemp("slide") / "a.svs", TissuePicture(700, 530))

        @classmethod
        def open(cls, path):
            return MyReader(path)
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.slide.readers.base import BACKGROUND, SlideReader

__all__ = ["SlideReaderSuite"]

_PERSONAL = re.compile(r"patient|name|birth|accession|label|barcode|user|date|time|operator|comment", re.IGNORECASE)


class SlideReaderSuite:
    """Tests of a slide reader; subclasses define the fixture ``slide`` and the method :meth:`open`.

    Attributes
    ----------
    tolerance
        Largest difference allowed between the pixels read and the fixture ``expected``.
    reduced_tolerance
        Largest mean difference allowed between a reduced read and the mean of the full one.
    identifiers
        Strings in the file that must not appear in any property.
    """

    tolerance = 0
    reduced_tolerance = 0.0
    identifiers: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path) -> SlideReader:
        """Open a slide with the backend under test; defined by the subclass."""
        raise NotImplementedError("subclasses of SlideReaderSuite must define open()")

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls) -> Path:
        """The slide: a file or a folder; defined by the subclass."""
        raise NotImplementedError("subclasses of SlideReaderSuite must define the fixture slide")

    @pytest.fixture(scope="class")
    @classmethod
    def altered(cls) -> Path | None:
        """The same slide with some pixels changed, or ``None`` if it cannot be created."""
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, slide: Path) -> list[NDArray[np.uint8]]:
        """Every level's pixels; by default, as read by the reader in a single call."""
        with cls.open(slide) as reader:
            return [reader.read(i, 0, 0, *level.dimensions) for i, level in enumerate(reader.levels)]

    @pytest.fixture
    def reader(self, slide: Path) -> Iterator[SlideReader]:
        """A newly opened reader."""
        with self.open(slide) as reader:
            yield reader

    def _assert_window(
        self, reader: SlideReader, expected: list[NDArray[np.uint8]], level: int, x: int, y: int, w: int, h: int
    ) -> None:
        got = reader.read(level, x, y, w, h)
        assert got.shape == (h, w, 3)
        assert got.dtype == np.uint8
        difference = np.abs(got.astype(int) - _cut(expected[level], x, y, w, h))
        assert difference.max() <= self.tolerance, (level, x, y, w, h)

    def test_describes_its_levels(self, reader: SlideReader, slide: Path) -> None:
        """Finest first, with consistent downsamples and tile sizes."""
        assert reader.path == slide
        assert isinstance(reader.backend, str)
        assert reader.levels
        assert reader.dimensions == reader.levels[0].dimensions
        assert reader.tile_size == reader.levels[0].tile_size
        assert reader.levels[0].downsample == 1.0
        width, height = reader.dimensions
        for level in reader.levels:
            assert level.width > 0
            assert level.height > 0
            assert min(level.tile_size) > 0
            assert level.downsample == pytest.approx((width / level.width + height / level.height) / 2, rel=1e-6)
        sizes = [level.width for level in reader.levels]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == len(sizes)
        for value in (reader.mpp, reader.objective_power):
            assert value is None or 0 < value < np.inf
        assert reader.icc_profile is None or isinstance(reader.icc_profile, bytes)

    def test_reads_whole_levels(self, reader: SlideReader, expected: list[NDArray[np.uint8]]) -> None:
        """All pixels of every level."""
        assert len(expected) == len(reader.levels)
        for i, level in enumerate(reader.levels):
            self._assert_window(reader, expected, i, 0, 0, *level.dimensions)

    def test_reads_windows(self, reader: SlideReader, expected: list[NDArray[np.uint8]]) -> None:
        """Windows on, next to and across tile borders, down to one pixel."""
        random = np.random.default_rng(0)
        for i, level in enumerate(reader.levels):
            width, height = level.tile_size
            for x, y in ((0, 0), (width, height), (width - 1, height - 1), (level.width - 1, level.height - 1)):
                for w, h in ((1, 1), (2, 3), (min(width, 300), min(height, 300))):
                    self._assert_window(reader, expected, i, x, y, w, h)
            for _ in range(12):
                x, y = int(random.integers(level.width)), int(random.integers(level.height))
                w, h = (int(side) for side in random.integers(1, 400, 2))
                self._assert_window(reader, expected, i, x, y, w, h)

    def test_reads_into_given_memory(self, reader: SlideReader) -> None:
        """Memory of any layout is filled; unsuitable memory is refused."""
        width, height = reader.dimensions
        for w, h, x, y in ((width, height, 0, 0), (*reader.tile_size, 0, 0), (width // 2 + 9, 7, -5, height - 4)):
            wanted = reader.read(0, x, y, w, h)
            for memory in (np.zeros((h, w, 3), np.uint8), np.zeros((h + 2, w + 3, 4), np.uint8)[1:-1, 2:-1, :3]):
                assert reader.read(0, x, y, w, h, out=memory) is memory
                assert np.array_equal(memory, wanted)
        for reduction in (1, 2):
            shrunk = reader.read_reduced(0, reduction, 1, 2, 9, 8).pixels
            memory = np.zeros_like(shrunk)
            assert reader.read_reduced(0, reduction, 1, 2, 9, 8, out=memory).pixels is memory
            assert np.array_equal(memory, shrunk)
        read_only = np.zeros((8, 9, 3), np.uint8)
        read_only.flags.writeable = False
        unfit: Any
        for unfit in (np.zeros((9, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint16), read_only):
            with pytest.raises(UsageError, match="out"):
                reader.read(0, 0, 0, 9, 8, out=unfit)

    def test_windows_are_regions(self, reader: SlideReader) -> None:
        """Many windows, overlapping and beyond the border, equal individual reads."""
        width, height = reader.dimensions
        rng = np.random.default_rng(3)
        for reduction in (1, 2):
            limits = (width // reduction + 20, height // reduction + 20)
            corners = rng.integers((-30, -30), limits, (12, 2))
            corners[0] = 0, 0
            memory = np.zeros((12, 21, 34, 3), np.uint8)
            readable = reader.read_windows(0, reduction, corners, memory, overlap=5)
            assert readable.all()
            for (x, y), window in zip(corners.tolist(), memory, strict=True):
                assert np.array_equal(window, reader.read_reduced(0, reduction, x, y, 34, 21).pixels)

    def test_is_white_beyond_every_border(self, reader: SlideReader, expected: list[NDArray[np.uint8]]) -> None:
        """Regions that extend beyond a side or a corner, or lie entirely outside."""
        for i, level in enumerate(reader.levels):
            for x in (-37, level.width // 2, level.width - 23):
                for y in (-41, level.height // 2, level.height - 19):
                    self._assert_window(reader, expected, i, x, y, 60, 60)
            for x, y in ((-500, 0), (0, -500), (level.width, 0), (0, level.height), (level.width + 9000, -9000)):
                assert (reader.read(i, x, y, 50, 40) == BACKGROUND).all()

    def test_result_belongs_to_the_caller(self, reader: SlideReader) -> None:
        """Writing to a result does not affect later reads."""
        width, height = reader.tile_size
        for w, h in ((width, height), (width // 2 + 1, height // 2 + 1)):
            first = reader.read(0, 0, 0, w, h)
            copy = first.copy()
            assert first.flags.writeable
            first[:] = 7
            np.testing.assert_array_equal(reader.read(0, 0, 0, w, h), copy)

    @pytest.mark.parametrize("request_", [(-1, 0, 0, 5, 5), (99, 0, 0, 5, 5), (0, 0, 0, 0, 5), (0, 0, 0, 5, -1)])
    def test_refuses_senseless_requests(self, reader: SlideReader, request_: tuple[int, int, int, int, int]) -> None:
        """A non-existent level or an empty region."""
        with pytest.raises(UsageError):
            reader.read(*request_)
        with pytest.raises(UsageError):
            reader.read_reduced(request_[0], 2, *request_[1:])

    def test_threads_see_the_same_pixels(self, reader: SlideReader, expected: list[NDArray[np.uint8]]) -> None:
        """Many threads on one reader."""
        random = np.random.default_rng(1)
        requests = []
        for _ in range(64):
            level = int(random.integers(len(reader.levels)))
            width, height = reader.levels[level].dimensions
            x, y = int(random.integers(-20, width)), int(random.integers(-20, height))
            requests.append((level, x, y, int(random.integers(1, 300)), int(random.integers(1, 300))))
        with ThreadPoolExecutor(8) as pool:
            for request, got in zip(requests, pool.map(lambda r: reader.read(*r), requests), strict=True):
                difference = np.abs(got.astype(int) - _cut(expected[request[0]], *request[1:]))
                assert difference.max() <= self.tolerance, request

    def test_reduced_reads_are_means(self, reader: SlideReader, expected: list[NDArray[np.uint8]]) -> None:
        """Of an intact slide, including beyond its borders."""
        for i, level in enumerate(reader.levels):
            for reduction in (1, 2, 3, 4):
                for x, y in ((0, 0), (-3, level.height // reduction - 30)):
                    w, h = min(90, level.width // reduction + 2), 60
                    region = reader.read_reduced(i, reduction, x, y, w, h)
                    assert region.pixels.shape == (h, w, 3)
                    assert region.pixels.dtype == np.uint8
                    assert not region.unreadable
                    full = _cut(expected[i], x * reduction, y * reduction, w * reduction, h * reduction)
                    mean = full.reshape(h, reduction, w, reduction, 3).mean((1, 3))
                    difference = np.abs(region.pixels - mean)
                    if self.reduced_tolerance:
                        assert difference.mean() <= 0.5 + self.tolerance + self.reduced_tolerance
                    else:
                        assert difference.max() <= 0.51 + self.tolerance

    def test_counts_tiles(self, reader: SlideReader) -> None:
        """Counts never decrease, and an intact slide has no unreadable tiles."""
        before = reader.tile_counts
        assert (before.decoded, before.reused, before.unreadable) == (0, 0, 0)
        reader.read(0, 0, 0, 100, 100)
        middle = reader.tile_counts
        reader.read(0, 5, 5, 100, 100)
        after = reader.tile_counts
        assert before.decoded <= middle.decoded <= after.decoded
        assert before.reused <= middle.reused <= after.reused
        assert after.unreadable == 0
        assert reader.unreadable_tiles == frozenset()

    def test_closes(self, slide: Path) -> None:
        """Closing twice is allowed; reading afterwards is not."""
        with self.open(slide) as reader:
            reader.read(0, 0, 0, 10, 10)
        reader.close()
        with pytest.raises(ValueError, match="closed"):
            reader.read(0, 0, 0, 10, 10)
        with pytest.raises(ValueError, match="closed"):
            reader.read_reduced(0, 2, 0, 0, 10, 10)

    def test_fingerprint_ignores_name_and_place(self, reader: SlideReader, slide: Path, tmp_path: Path) -> None:
        """A renamed copy has the same fingerprint."""
        assert re.fullmatch(r"[0-9a-f]{64}", reader.fingerprint)
        if slide.is_dir():
            copy = Path(shutil.copytree(slide, tmp_path / "other name", copy_function=shutil.copyfile))
        else:
            copy = tmp_path / f"other name 😀{slide.suffix}"
            shutil.copyfile(slide, copy)
        with self.open(copy) as again:
            assert again.fingerprint == reader.fingerprint

    def test_fingerprint_follows_pixels(self, reader: SlideReader, altered: Path | None) -> None:
        """Different pixels have a different fingerprint."""
        if altered is None:
            pytest.skip("no altered copy of this slide")
        with self.open(altered) as other:
            assert other.fingerprint != reader.fingerprint

    def test_tells_nothing_personal(self, reader: SlideReader) -> None:
        """Neither in a property's name nor in its value."""
        for name, value in reader.properties.items():
            assert isinstance(value, str)
            assert not _PERSONAL.search(name), name
            for identifier in self.identifiers:
                assert identifier not in value
        with pytest.raises(TypeError):
            reader.properties["new"] = "value"  # type: ignore[index]

    def test_best_level_is_never_too_coarse(self, reader: SlideReader) -> None:
        """The coarsest level that still has the requested resolution."""
        for wanted in (1.0, 1.5, 2.0, 4.0, 7.9, 64.0):
            best = reader.levels[reader.best_level(wanted)]
            assert best.downsample <= wanted * 1.01
            assert not any(best.downsample < level.downsample <= wanted for level in reader.levels)


def _cut(pixels: NDArray[np.uint8], x: int, y: int, w: int, h: int) -> NDArray[np.int64]:
    """Return a window of an image, white beyond its border."""
    window = np.full((h, w, 3), BACKGROUND, np.int64)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, pixels.shape[1]), min(y + h, pixels.shape[0])
    if left < right and top < bottom:
        window[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
    return window
