"""What is mutated: small sound files of each kind, and how the program reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes
    ----------
    name
        File name of the input.
    write
        Writes a sound one.
    read
        Reads it as the program does.
    slide
        Whether it is a slide.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    slide: bool = False


def _picture() -> object:
    from pathology.testing.synthetic_tissue import TissuePicture

    return TissuePicture(600, 500, seed=1, tissue=0.6)


def _slide(writer: str, **options: object) -> Callable[[Path], object]:
    def write(path: Path) -> object:
        from pathology.testing import synthetic_slides

        return getattr(synthetic_slides, writer)(path, _picture(), factors=(1, 2), **options)

    return write


def _dicom(path: Path) -> None:
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        _slide("write_dicom")(Path(scratch) / "series")
        shutil.copy(max((Path(scratch) / "series").iterdir(), key=lambda file: file.stat().st_size), path)


def _field(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)).save(path)


def _read_slide(path: Path) -> None:
    """Open, find tissue, read some of each level: what preparing a slide does first."""
    from pathology.slide.open import open_reader
    from pathology.slide.thumbnail import thumbnail

    with open_reader(path) as reader:
        thumbnail(reader, 1.0, max(1.0, max(reader.dimensions) / 256))
        for level, stored in enumerate(reader.levels):
            reader.read_masked(level, 0, 0, min(300, stored.width), min(300, stored.height))


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding="utf-8")


def _manifest(path: Path) -> None:
    from pathology.scoring.select import select_slides

    select_slides([path])


def _labels(path: Path) -> None:
    from pathology.evaluation.labels import read_labels
    from pathology.scoring.select import SlideEntry

    read_labels(path, [SlideEntry(name, Path(f"{name}.svs")) for name in "ab"], ["stroma", "tumour"])


def _clinical(path: Path) -> None:
    from pathology.patient.clinical import read_clinical

    read_clinical(path)


def _config(path: Path) -> None:
    from pathology.configuration import read_config

    read_config(path)


def _card(path: Path) -> None:
    from pathology.bundle.card import read_card

    read_card(path)


def _write_card(path: Path) -> None:
    _write_bundle(path.parent / "example")
    path.write_bytes((path.parent / "example" / "card.yaml").read_bytes())


def _write_bundle(folder: Path) -> None:
    from pathology.testing.random_bundle import write_random_bundle

    if not folder.exists():
        write_random_bundle(folder)


def _geojson(path: Path) -> None:
    from pathology.outputs.export.geojson import read_geojson

    list(read_geojson(path))


def _write_volume(path: Path) -> None:
    from pathology.radiology.io.geometry import Geometry
    from pathology.radiology.io.nifti import write_nifti
    from pathology.testing.radiology_phantoms import tumour_phantom

    write_nifti(tumour_phantom(Geometry((16, 16, 8), (1.0, 1.0, 2.0)))[0], path)


def _volume(path: Path) -> None:
    from pathology.radiology.io.open import open_volume

    open_volume(path, modality="MR")


def _weights(path: Path) -> None:
    from pathology.bundle.weights import read_state_dict

    read_state_dict(path)


def _write_weights(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((4, 4), np.float32), "b": np.ones(3, np.float32)}, path)


def _json(path: Path) -> None:
    from pathology.errors import StoreError
    from pathology.input_files import read_json

    read_json(path, StoreError)


_SQUARE: Final = [[[0, 0], [10, 0], [10, 10], [0, 0]]]
_FEATURE: Final = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": _SQUARE}}
_FEATURES: Final = json.dumps({"type": "FeatureCollection", "features": [_FEATURE] * 3})
_CLINICAL: Final = "patient_id,age,sex,os_days,os_event\nP1,54,female,100,1\nP2,61,male,,0\n"

TARGETS: Final = (
    Target("jpeg.svs", _slide("write_svs"), _read_slide, slide=True),
    Target("jpeg.ome.tiff", _slide("write_ome_tiff"), _read_slide, slide=True),
    Target("plain.tif", _slide("write_tiff"), _read_slide, slide=True),
    Target("deflate.tif", _slide("write_tiff", compression="deflate"), _read_slide, slide=True),
    Target("level.dcm", _dicom, _read_slide, slide=True),
    Target("field.png", _field, _read_slide, slide=True),
    Target("field.jpg", _field, _read_slide, slide=True),
    Target("manifest.csv", _text("path,slide_id,mpp\na.svs,A,0.5\nb.svs,B,\n"), _manifest),
    Target("labels.csv", _text("slide_id,patient_id,label\na,P1,stroma\nb,P2,tumour\n"), _labels),
    Target("clinical.csv", _text(_CLINICAL), _clinical),
    Target("config.yaml", _text("slides: [a.svs]\nmodel: example\nmpp: 0.5\nregion:\n  results: x\n"), _config),
    Target("card.yaml", _write_card, _card),
    Target("regions.geojson", _text(_FEATURES), _geojson),
    Target("volume.nii", _write_volume, _volume),
    Target("volume.nii.gz", _write_volume, _volume),
    Target("weights.safetensors", _write_weights, _weights),
    Target("record.json", _text(json.dumps({"a": [1, {"b": "c"}], "d": {"e": None}})), _json),
)
