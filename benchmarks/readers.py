"""One adapter per slide-reading program, each used as its documentation recommends.

Every adapter returns ``(size, size, 3)`` uint8 RGB arrays.  For programs without resampling, the smallest level at or
above the target is read and downsampled by OpenCV's area averaging, the cheapest method that does not alias.
"""

import os
import threading
from abc import ABC, abstractmethod

import cv2
import numpy as np

cv2.setNumThreads(1)


class Adapter(ABC):
    """A slide opened by one program; one instance per thread unless it can be shared."""

    shared = True
    """Whether threads may share one instance."""

    @abstractmethod
    def region(self, x: int, y: int, size: int) -> np.ndarray:
        """Return ``(size, size, 3)`` of level 0."""

    def scaled(self, x: float, y: float, size: int, factor: float) -> np.ndarray:
        """Return ``(size, size, 3)`` at ``factor`` level-0 pixels per pixel; ``x`` and ``y`` in level-0 pixels."""
        side = round(size * factor)
        return cv2.resize(self.region(round(x), round(y), side), (size, size), interpolation=cv2.INTER_AREA)


class OpenSlide(Adapter):
    """openslide-python; pixels come premultiplied RGBA through PIL."""

    def __init__(self, path: str) -> None:
        import openslide

        self.slide = openslide.OpenSlide(path)

    def region(self, x, y, size):  # noqa: D102 - see the base class
        return np.asarray(self.slide.read_region((x, y), 0, (size, size)).convert("RGB"))


class TiffSlide(Adapter):
    """tiffslide: tifffile, imagecodecs and zarr behind OpenSlide's interface."""

    shared = False

    def __init__(self, path: str) -> None:
        import tiffslide

        self.slide = tiffslide.TiffSlide(path)

    def region(self, x, y, size):  # noqa: D102 - see the base class
        return self.slide.read_region((x, y), 0, (size, size), as_array=True)


class PyVips(Adapter):
    """pyvips with libvips' own TIFF loader, using Region.fetch."""

    shared = False

    def __init__(self, path: str) -> None:
        os.environ.setdefault("VIPS_CONCURRENCY", "1")
        import pyvips

        self.region_of = pyvips.Region.new(pyvips.Image.new_from_file(path))

    def region(self, x, y, size):  # noqa: D102 - see the base class
        return np.frombuffer(self.region_of.fetch(x, y, size, size), np.uint8).reshape(size, size, -1)[..., :3]


class FastSlide(Adapter):
    """fastslide."""

    def __init__(self, path: str) -> None:
        import fastslide

        self.slide = fastslide.FastSlide.from_file_path(path)

    def region(self, x, y, size):  # noqa: D102 - see the base class
        return self.slide.read_region(location=(x, y), level=0, size=(size, size)).numpy()[..., :3]


class CuCIM(Adapter):
    """cuCIM on the CPU."""

    def __init__(self, path: str) -> None:
        import cucim

        self.slide = cucim.CuImage(str(path))

    def region(self, x, y, size):  # noqa: D102 - see the base class
        return np.asarray(self.slide.read_region((x, y), (size, size), 0))


class TIAToolbox(Adapter):
    """TIAToolbox's WSIReader, with its own resampling."""

    shared = False

    def __init__(self, path: str) -> None:
        from tiatoolbox.wsicore.wsireader import WSIReader

        self.slide = WSIReader.open(path)
        self.mpp = float(np.mean(self.slide.info.mpp))

    def region(self, x, y, size):  # noqa: D102 - see the base class
        return self.slide.read_rect((x, y), (size, size), resolution=0, units="level")

    def scaled(self, x, y, size, factor):  # noqa: D102 - see the base class
        location = (round(x), round(y))
        return self.slide.read_rect(location, (size, size), resolution=self.mpp * factor, units="mpp")


class Raw(Adapter):
    """Only pread and imagecodecs, for whole stored tiles, into the most suitable memory."""

    shared = False

    def __init__(self, path: str) -> None:
        import imagecodecs
        import tifffile

        from pathology.slide.readers.codecs import decoding_memory

        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            self.offsets, self.lengths = page.dataoffsets, page.databytecounts
            self.tables, self.tile, self.across = page.jpegtables, page.tilewidth, -(-page.imagewidth // page.tilewidth)
            self.space = "YCBCR" if page.photometric == 6 else "RGB"
        self.decode, self.file = imagecodecs.jpeg8_decode, os.open(path, os.O_RDONLY)
        self.memory = decoding_memory(self.tile, self.tile, 3)

    def region(self, x, y, size):  # noqa: D102 - see the base class
        if x % self.tile or y % self.tile or size != self.tile:
            raise NotImplementedError("only whole stored tiles")
        index = y // self.tile * self.across + x // self.tile
        data = os.pread(self.file, self.lengths[index], self.offsets[index])
        return self.decode(data, tables=self.tables, colorspace=self.space, outcolorspace="RGB", out=self.memory)


class Ours(Adapter):
    """The reader of this project, used region by region like the others, into reused memory."""

    def __init__(self, path: str) -> None:
        from pathology.slide.open import open_reader

        self.reader = open_reader(path)
        self.memory = threading.local()

    def region(self, x, y, size):  # noqa: D102 - see the base class
        if not hasattr(self.memory, "region"):
            self.memory.region = np.empty((size, size, 3), np.uint8)
        return self.reader.read(0, x, y, size, size, out=self.memory.region)

    def scaled(self, x, y, size, factor):  # noqa: D102 - see the base class
        from pathology.slide.readers.base import Rect
        from pathology.slide.resample import choose_scaling, read_scaled

        target = Rect(round(x / factor), round(y / factor), size, size)
        return read_scaled(self.reader, choose_scaling(self.reader, factor), target).pixels


ADAPTERS = {
    "OpenSlide": OpenSlide,
    "tiffslide": TiffSlide,
    "pyvips": PyVips,
    "fastslide": FastSlide,
    "cuCIM": CuCIM,
    "TIAToolbox": TIAToolbox,
    "raw decode": Raw,
    "ours, single": Ours,
}
"""Programs by display name.  ``ours, blocks`` is not one of them: it reads many patches at once."""


class PerThread:
    """Opens an adapter once, or once per thread."""

    def __init__(self, name: str, path: str) -> None:
        self.kind, self.path = ADAPTERS[name], path
        self.common = self.kind(path) if self.kind.shared else None
        self.local = threading.local()

    def __call__(self) -> Adapter:
        """Return the adapter for the calling thread."""
        if self.common is not None:
            return self.common
        if not hasattr(self.local, "adapter"):
            self.local.adapter = self.kind(self.path)
        return self.local.adapter
