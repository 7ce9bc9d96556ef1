"""Training data for mitosis detectors: crops around mitoses, and larger images without mitoses.

The crops are those of the AMi-Br benchmark (Bertram et al.; human breast cancer from MIDOG 2021 and TUPAC16), 128
pixels wide at 40x, each with a mitosis at its centre.  Where the complete annotation of a region is public (the
MIDOG++ database), neighbouring mitoses and mitosis-like figures inside a crop are labelled as well.

Splits are by slide and depend on the slide name alone, so that a slide never changes sets; see
:func:`part_of_slide`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology.errors import InputTableError

__all__ = [
    "BOX",
    "CROP",
    "MPP",
    "Background",
    "MitosisData",
    "Part",
    "part_of_background",
    "part_of_slide",
    "read_folder",
    "read_pack",
    "write_pack",
]

Part = Literal["train", "validation", "test"]

CROP = 128
"""Side of a crop in pixels."""
BOX = 50
"""Side of an annotated box in pixels: 12.5 µm, the convention of the MIDOG annotations."""
MPP = 0.25
"""Micrometres per pixel of the crops."""

_MOST_OBJECTS = 6


@dataclass(frozen=True)
class Background:
    """An image without annotated mitoses.

    Attributes
    ----------
    name
        File name without extension.
    pixels
        ``(H, W, 3)`` uint8 RGB.
    mpp
        Micrometres per pixel.
    part
        Part of the split.
    objects
        ``(K, 2)`` centres of annotated mitosis-like figures in pixels.
    """

    name: str
    pixels: NDArray[np.uint8]
    mpp: float
    part: Part
    objects: NDArray[np.float32]


@dataclass(frozen=True)
class MitosisData:
    """Crops with their objects, and backgrounds.

    Attributes
    ----------
    crops
        ``(N, 128, 128, 3)`` uint8 RGB.
    objects
        ``(N, K, 3)`` float32: x, y in crop pixels, and 1 for a mitosis, 0 for a mitosis-like figure, -1
        for padding.  The first is the mitosis at the centre.
    slides
        ``(N,)`` slide of each crop, as ``data set/file``.
    parts
        ``(N,)`` part of the split.
    complete
        ``(N,)`` whether the crop is fully annotated (MIDOG 2021), or only mitoses that have a crop of their
        own (TUPAC16).
    backgrounds
        Larger images without annotated mitoses.
    """

    crops: NDArray[np.uint8]
    objects: NDArray[np.float32]
    slides: NDArray[np.str_]
    parts: NDArray[np.str_]
    complete: NDArray[np.bool_]
    backgrounds: tuple[Background, ...]

    def of(self, *parts: Part) -> MitosisData:
        """Return one or more parts of the split."""
        chosen = np.isin(self.parts, parts)
        return MitosisData(
            self.crops[chosen],
            self.objects[chosen],
            self.slides[chosen],
            self.parts[chosen],
            self.complete[chosen],
            tuple(b for b in self.backgrounds if b.part in parts),
        )


def part_of_slide(slide: str) -> Part:
    """Return the part of the split a slide belongs to: 60 % train, 20 % validation, 20 % test of the slides.

    The first eight hexadecimal digits of the SHA-256 of ``data set/file``, modulo 10: 0-5 train, 6-7 validation,
    8-9 test.
    """
    digit = int(hashlib.sha256(slide.encode()).hexdigest()[:8], 16) % 10
    return "train" if digit < 6 else "validation" if digit < 8 else "test"


def part_of_background(name: str) -> Part:
    """Return the part of the split a background image belongs to.

    Test: the second canine field and the osteosarcoma case 48.  Validation: the right third of the first field and
    case P9.  Two fields and three cases are too few for a rule by hash.
    """
    if "36075" in name or name.startswith("Case-48"):
        return "test"
    return "validation" if name.endswith("-right") or name.startswith("P9") else "train"


def read_folder(folder: Path, osteosarcoma: Path | None = None) -> MitosisData:
    """Read crops, annotations and backgrounds.

    Parameters
    ----------
    folder
        Contains ``crops.csv``, ``crops/``, ``MIDOG++.json`` and ``fields/``.
    osteosarcoma
        Folder of osteosarcoma tiles, one subfolder per class, as additional backgrounds.

    Raises
    ------
    InputTableError
        If a crop has the wrong size, or its mitosis is not annotated.
    """
    with (folder / "crops.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    annotated = _annotations(folder / "MIDOG++.json")
    known: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for row in rows:
        known[f"{row['dataset']}/{row['slide']}"].append((float(row["x"]), float(row["y"]), 1))
    crops = np.empty((len(rows), CROP, CROP, 3), np.uint8)
    objects = np.full((len(rows), _MOST_OBJECTS, 3), -1, np.float32)
    slides, complete = [], []
    for index, row in enumerate(rows):
        slide, x, y = f"{row['dataset']}/{row['slide']}", float(row["x"]), float(row["y"])
        with Image.open(folder / "crops" / row["dataset_uid"]) as image:
            if image.size != (CROP, CROP):
                raise InputTableError(f"expected a crop of {CROP} pixels, got {image.size}", where=row["dataset_uid"])
            crops[index] = np.asarray(image.convert("RGB"))
        whole = row["dataset"] == "MIDOG21"
        candidates = annotated.get(row["slide"], []) if whole else known[slide]
        inside = sorted(
            (
                (u - x + CROP / 2, v - y + CROP / 2, label)
                for u, v, label in candidates
                if max(abs(u - x), abs(v - y)) < CROP / 2
            ),
            key=lambda o: np.hypot(o[0] - CROP / 2, o[1] - CROP / 2),
        )[:_MOST_OBJECTS]
        if not inside or inside[0][2] != 1 or np.hypot(inside[0][0] - CROP / 2, inside[0][1] - CROP / 2) > 3:
            raise InputTableError("no mitosis is annotated at the centre of this crop", where=row["dataset_uid"])
        objects[index, : len(inside)] = inside
        slides.append(slide)
        complete.append(whole)
    parts = np.array([part_of_slide(slide) for slide in slides])
    fields = [_background(path, MPP) for path in sorted((folder / "fields").glob("*.jpg"))]
    backgrounds = tuple(part for field in fields for part in (_halved(field) if field.part == "train" else (field,)))
    if osteosarcoma is not None:
        # Scanned at 40x and published at 10x (Leavey et al. 2019), which is about one micrometre per pixel.
        backgrounds += tuple(_background(path, 1.0) for path in sorted(osteosarcoma.glob("*/*.jpg")))
    return MitosisData(crops, objects, np.array(slides), parts, np.array(complete), backgrounds)


def _annotations(path: Path) -> dict[str, list[tuple[float, float, int]]]:
    """Read a MIDOG++ database: file name to centres, with 1 for a mitosis and 0 for a mitosis-like figure."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for annotation in content["annotations"]:
        left, top, right, bottom = annotation["bbox"]
        label = 1 if annotation["category_id"] == 1 else 0
        found[names[annotation["image_id"]]].append(((left + right) / 2, (top + bottom) / 2, label))
    return found


def _background(path: Path, mpp: float) -> Background:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    objects = np.empty((0, 2), np.float32)
    table = path.with_suffix(".txt")
    if table.exists():
        # class, then centre and size as fractions of the image.
        rows = np.loadtxt(table, ndmin=2)
        objects = (rows[:, 1:3] * (width, height)).astype(np.float32)
    return Background(path.stem, pixels, mpp, part_of_background(path.stem), objects)


def _halved(field: Background) -> tuple[Background, Background]:
    """Split a field at two thirds of its width, for training and validation."""
    border = field.pixels.shape[1] * 2 // 3
    left = field.objects[:, 0] < border
    shifted = field.objects[~left] - np.array([border, 0], np.float32)
    halves = (
        (f"{field.name}-left", field.pixels[:, :border], field.objects[left]),
        (f"{field.name}-right", field.pixels[:, border:], shifted),
    )
    return tuple(  # type: ignore[return-value]
        Background(name, np.ascontiguousarray(pixels), field.mpp, part_of_background(name), objects)
        for name, pixels, objects in halves
    )


def write_pack(data: MitosisData, path: Path, crop_error: float = 37, background_error: float = 38) -> None:
    """Write everything into one file, images as JPEG 2000: half the bytes of JPEG at the same error.

    Parameters
    ----------
    data
        Data from :func:`read_folder`.
    path
        An ``.npz`` file.
    crop_error, background_error
        Peak signal-to-noise ratio of crops and of backgrounds, in dB; at 37, the root-mean-square error is 3.6 grey
        levels of 256.
    """
    images = [_encoded(image, crop_error) for image in data.crops]
    images += [_encoded(b.pixels, background_error) for b in data.backgrounds]
    ends = np.cumsum([len(image) for image in images])
    np.savez(
        path,
        images=np.frombuffer(b"".join(images), np.uint8),
        ends=ends,
        objects=data.objects,
        slides=data.slides,
        parts=data.parts,
        complete=data.complete,
        names=np.array([b.name for b in data.backgrounds]),
        mpp=np.array([b.mpp for b in data.backgrounds]),
        look_alikes=np.concatenate([b.objects for b in data.backgrounds] or [np.empty((0, 2), np.float32)]),
        look_alike_counts=np.array([len(b.objects) for b in data.backgrounds]),
    )


def read_pack(path: Path) -> MitosisData:
    """Read a file from :func:`write_pack`."""
    with np.load(path, allow_pickle=False) as stored:
        content = {name: stored[name] for name in stored.files}
    starts = np.concatenate([[0], content["ends"][:-1]])
    stored_images = [content["images"][start:end].tobytes() for start, end in zip(starts, content["ends"], strict=True)]
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(_decoded, stored_images))
    count = len(content["slides"])
    look_alikes = np.split(content["look_alikes"], np.cumsum(content["look_alike_counts"])[:-1])
    backgrounds = tuple(
        Background(str(name), image, float(mpp), part_of_background(str(name)), objects)
        for name, image, mpp, objects in zip(content["names"], images[count:], content["mpp"], look_alikes, strict=True)
    )
    return MitosisData(
        np.stack(images[:count]),
        content["objects"],
        content["slides"],
        content["parts"],
        cast("NDArray[np.bool_]", content["complete"]),
        backgrounds,
    )


def _decoded(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _encoded(image: NDArray[np.uint8], error: float) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG2000", quality_mode="dB", quality_layers=[error], irreversible=True, mct=1)
    return stream.getvalue()
