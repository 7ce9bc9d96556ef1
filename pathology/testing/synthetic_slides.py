"""Write slides of any size, tile size, compression and vendor format, row by row, in constant memory.

They look like tissue (see :mod:`pathology.testing.synthetic_tissue`) and match the real formats down to the markers:
Aperio's abbreviated JPEG tiles with shared tables, its two kinds of JPEG 2000, omitted tiles, label and macro images
that must never be shown, DICOM series with and without offset tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import imagecodecs
import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.encoders.base import RLELosslessEncoder

from pathology.testing.synthetic_tissue import ArrayPicture, Picture, TissuePicture

__all__ = [
    "ArrayPicture",
    "Compression",
    "DicomSyntax",
    "Picture",
    "TissuePicture",
    "encode_tile",
    "write_dicom",
    "write_ome_tiff",
    "write_svs",
    "write_tiff",
]

Compression = Literal[
    "none",
    "jpeg",
    "jpeg-422",
    "jpeg-444",
    "jpeg-rgb",
    "jpeg2000",
    "jpeg2000-lossless",
    "jpeg2000-ycbcr",
    "webp",
    "webp-lossless",
    "lzw",
    "deflate",
]
"""``jpeg`` is 4:2:0; ``jpeg-rgb`` stores RGB untransformed; ``jpeg2000-ycbcr`` is Aperio's 33003."""

DicomSyntax = Literal["jpeg", "jpeg-rgb", "jpeg2000", "jpeg2000-lossless", "none", "rle"]

_TIFF_CODES: Final[dict[str, int]] = {
    "none": 1,
    "jpeg": 7,
    "jpeg-422": 7,
    "jpeg-444": 7,
    "jpeg-rgb": 7,
    "jpeg2000": 34712,
    "jpeg2000-lossless": 34712,
    "jpeg2000-ycbcr": 33003,
    "webp": 50001,
    "webp-lossless": 50001,
    "lzw": 5,
    "deflate": 8,
}
_APERIO_JPEG_2000: Final = 33005
_SUBSAMPLING: Final = {"jpeg": (2, 2), "jpeg-422": (2, 1), "jpeg-444": (1, 1)}
_SYNTAXES: Final[dict[str, tuple[uid.UID, str]]] = {
    "jpeg": (uid.JPEGBaseline8Bit, "YBR_FULL_422"),
    "jpeg-rgb": (uid.JPEGBaseline8Bit, "RGB"),
    "jpeg2000": (uid.JPEG2000, "YBR_ICT"),
    "jpeg2000-lossless": (uid.JPEG2000Lossless, "YBR_RCT"),
    "none": (uid.ExplicitVRLittleEndian, "RGB"),
    "rle": (uid.RLELossless, "RGB"),
}


def encode_tile(pixels: NDArray[np.uint8], compression: Compression, quality: int = 80) -> bytes:
    """Compress one tile.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8 RGB.
    compression
        Codec and variant.
    quality
        JPEG and WebP quality, 1 to 100; for lossy JPEG 2000 the peak signal-to-noise ratio is half of it, in dB.

    Returns
    -------
    bytes
        A complete image for image codecs, plain bytes for the others.
    """
    pixels = np.ascontiguousarray(pixels)
    encoded: bytes | bytearray
    if compression == "jpeg-rgb":
        encoded = imagecodecs.jpeg8_encode(
            pixels, level=quality, colorspace="RGB", outcolorspace="RGB", subsampling=(1, 1)
        )
    elif compression in _SUBSAMPLING:
        encoded = imagecodecs.jpeg8_encode(pixels, level=quality, subsampling=_SUBSAMPLING[compression])
    elif compression in ("jpeg2000", "jpeg2000-ycbcr"):
        ycbcr = compression == "jpeg2000-ycbcr"
        encoded = imagecodecs.jpeg2k_encode(
            _rgb_to_ycbcr(pixels) if ycbcr else pixels,
            level=round(quality / 2),
            codecformat="j2k",
            mct=not ycbcr,
            resolutions=6,
            numthreads=1,
        )
    elif compression == "jpeg2000-lossless":
        encoded = imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k", resolutions=6, numthreads=1)
    elif compression in ("webp", "webp-lossless"):
        lossless = compression == "webp-lossless"
        encoded = imagecodecs.webp_encode(pixels, level=quality, lossless=lossless)
    elif compression == "lzw":
        encoded = imagecodecs.lzw_encode(pixels.tobytes())
    elif compression == "deflate":
        encoded = imagecodecs.zlib_encode(pixels.tobytes())
    else:
        encoded = pixels.tobytes()
    return bytes(encoded)


def _rgb_to_ycbcr(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert to full-range YCbCr (ITU-T T.871)."""
    red, green, blue = np.moveaxis(pixels.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
    return np.asarray(np.clip(np.rint(np.stack(planes, axis=2)), 0, 255), np.uint8)


def _split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG image into shared tables and an abbreviated image (ITU-T T.81, annex B.5)."""
    tables, rest = bytearray(b"\xff\xd8"), bytearray(b"\xff\xd8")
    position = 2
    while data[position + 1] != 0xDA:
        length = 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position : position + length]
        if data[position + 1] in (0xDB, 0xC4):
            tables += segment
        elif not 0xE0 <= data[position + 1] <= 0xEF:
            rest += segment
        position += length
    return bytes(tables + b"\xff\xd9"), bytes(rest + data[position:])


def write_tiff(
    path: Path,
    picture: Picture,
    *,
    tile: tuple[int, int] | None = (256, 256),
    rows_per_strip: int = 16,
    compression: Compression = "jpeg",
    quality: int = 80,
    factors: Sequence[int] = (1,),
    mpp: float | None = 0.5,
    description: Callable[[int], str] | None = None,
    shared_tables: bool = False,
    omitted: Callable[[int, int, int], bool] | None = None,
    predictor: bool = False,
    bigtiff: bool = False,
    byteorder: Literal["<", ">"] = "<",
) -> Path:
    """Write a plain TIFF pyramid.

    Parameters
    ----------
    path
        Output file.
    picture
        The slide's pixels.
    tile
        Tile size ``(width, height)`` in pixels, multiples of 16; ``None`` writes strips.
    rows_per_strip
        Height of a strip in pixels.
    compression, quality
        As for :func:`encode_tile`.
    factors
        Reduction of each level, starting with 1.
    mpp
        Micrometres per pixel of level 0, written as resolution in pixels per cm; ``None`` omits it.
    description
        ImageDescription of each level, from its index.
    shared_tables
        Whether JPEG tables are stored once in the tag JPEGTables instead of in every tile.
    omitted
        Predicate of level index, column and row: true for tiles to omit (length 0).
    predictor
        Whether LZW and deflate use horizontal differencing.
    bigtiff, byteorder
        Container variants.

    Returns
    -------
    Path
        ``path``.
    """
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as tif:
        for index, factor in enumerate(factors):
            _write_level(
                tif,
                picture,
                index,
                factor,
                tile or (picture.level_size(factor)[0], rows_per_strip),
                tiled=tile is not None,
                compression=compression,
                code=_TIFF_CODES[compression],
                quality=quality,
                mpp=None if mpp is None else mpp * factor,
                description=description(index) if description else None,
                shared_tables=shared_tables,
                omitted=omitted,
                predictor=predictor,
                subfiletype=1 if index else 0,
            )
    return path


def _write_level(
    tif: tifffile.TiffWriter,
    picture: Picture,
    index: int,
    factor: int,
    tile: tuple[int, int],
    *,
    tiled: bool,
    compression: Compression,
    code: int,
    quality: int,
    mpp: float | None,
    description: str | bytes | None,
    shared_tables: bool,
    omitted: Callable[[int, int, int], bool] | None,
    predictor: bool,
    subfiletype: int,
    subifds: int | None = None,
) -> None:
    width, height = picture.level_size(factor)
    columns = -(-width // tile[0])
    jpeg = code == _TIFF_CODES["jpeg"]
    shared_tables = shared_tables and jpeg

    def segments() -> Iterator[bytes]:
        for number in range(columns * -(-height // tile[1])):
            row, column = divmod(number, columns)
            if omitted is not None and omitted(index, column, row):
                yield b""
                continue
            pixels = picture.reduced(factor, column * tile[0], row * tile[1], tile[0], tile[1])
            part = pixels if tiled else pixels[: min(tile[1], height - row * tile[1])]
            if predictor:
                part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1])).astype(np.uint8)
            data = encode_tile(part, compression, quality)
            yield _split_jpeg(data)[1] if shared_tables else data

    tags: list[tuple[int, int, int, object, bool]] = []
    if shared_tables:
        tables, _ = _split_jpeg(encode_tile(np.zeros((16, 16, 3), np.uint8), compression, quality))
        tags.append((347, 7, len(tables), tables, True))
    tif.write(
        segments(),
        shape=(height, width, 3),
        dtype=np.uint8,
        photometric="ycbcr" if compression == "jpeg2000-ycbcr" or (jpeg and compression != "jpeg-rgb") else "rgb",
        tile=(tile[1], tile[0]) if tiled else None,
        rowsperstrip=None if tiled else tile[1],
        compression=code,
        compressionargs={"outcolorspace": "RGB"} if compression == "jpeg-rgb" else None,
        subsampling=_SUBSAMPLING.get(compression),
        predictor=2 if predictor else None,
        description=description,
        metadata=None,
        subfiletype=subfiletype,
        resolution=None if mpp is None else (1e4 / mpp, 1e4 / mpp),
        resolutionunit=None if mpp is None else "CENTIMETER",
        extratags=tags,
        software=False,
        subifds=subifds,
    )


def write_svs(
    path: Path,
    picture: Picture,
    *,
    tile: int = 256,
    compression: Compression = "jpeg",
    quality: int = 80,
    factors: Sequence[int] = (1, 4, 16),
    mpp: float | None = 0.5,
    objective_power: float | None = 20,
    omitted: Callable[[int, int, int], bool] | None = None,
    bigtiff: bool = False,
) -> Path:
    """Write a slide like an Aperio scanner: thumbnail after level 0, then coarser levels, label and macro.

    Parameters
    ----------
    path
        Output file.
    picture
        The slide's pixels.
    tile
        Side of the tiles in pixels.
    compression
        ``jpeg`` (with shared tables), ``jpeg-rgb``, ``jpeg2000`` (code 33005) or ``jpeg2000-ycbcr`` (33003); others are
        accepted, although Aperio does not use them.
    quality
        As for :func:`encode_tile`.
    factors
        Reduction of each level, starting with 1.
    mpp, objective_power
        Stated in the description; ``None`` omits them.
    omitted
        Predicate of level index, column and row: true for tiles to omit (length 0).
    bigtiff
        Whether to write BigTIFF.

    Returns
    -------
    Path
        ``path``.

    Examples
    --------
    >>> from pathology import open_slide
    >>> path = write_svs(folder / "made.svs", TissuePicture(600, 400, seed=1), mpp=0.5)
    >>> open_slide(path).dimensions
    (600, 400)
    """
    stated = [f"AppMag = {objective_power:g}"] if objective_power is not None else []
    stated += [f"MPP = {mpp:.4f}"] if mpp is not None else []
    stated += ["User = nobody", "Date = 01/02/03"]
    full = f"{picture.width}x{picture.height}"
    code = _TIFF_CODES[compression] if compression != "jpeg2000" else _APERIO_JPEG_2000
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tif:
        for index, factor in enumerate(factors):
            width, height = picture.level_size(factor)
            arrow = f" -> {width}x{height}" if index else ""
            heading = (
                f"Aperio Image Library v12.0.0 \r\n{full} [0,0 {full}] ({tile}x{tile}){arrow} {compression} Q={quality}"
            )
            _write_level(
                tif,
                picture,
                index,
                factor,
                (tile, tile),
                tiled=True,
                compression=compression,
                code=code,
                quality=quality,
                mpp=None,
                description="|".join([heading, *stated]),
                shared_tables=True,
                omitted=omitted,
                predictor=False,
                subfiletype=0,
            )
            if index == 0:
                _write_strips(tif, _thumbnail(picture), f"Aperio Image Library v12.0.0 \r\n{full} -> thumbnail", 0)
        _write_strips(tif, _forbidden(), "Aperio Image Library v12.0.0 \r\nlabel 240x200", 1)
        _write_strips(tif, _forbidden(), "Aperio Image Library v12.0.0 \r\nmacro 240x200", 9)
    return path


def _thumbnail(picture: Picture) -> NDArray[np.uint8]:
    """Subsample the image line by line: averaging all pixels of a huge slide would take hours."""
    step = max(1, -(-max(picture.width, picture.height) // 256))
    lines = [picture.window(0, y, picture.width, 1)[:, ::step] for y in range(0, picture.height, step)]
    return np.concatenate(lines)


def _forbidden() -> NDArray[np.uint8]:
    """Return an image that no reader may show: pure green, unlike any tissue."""
    pixels = np.zeros((200, 240, 3), np.uint8)
    pixels[:, :, 1] = 255
    return pixels


def _write_strips(tif: tifffile.TiffWriter, pixels: NDArray[np.uint8], description: str, subfiletype: int) -> None:
    tif.write(
        pixels,
        photometric="rgb",
        compression="lzw",
        rowsperstrip=16,
        description=description,
        metadata=None,
        subfiletype=subfiletype,
        software=False,
    )


def write_ome_tiff(
    path: Path,
    picture: Picture,
    *,
    tile: int = 256,
    compression: Compression = "jpeg",
    quality: int = 80,
    factors: Sequence[int] = (1, 2, 4),
    physical_size: float | None = 0.5,
    unit: str = "µm",
    objective_power: float | None = 40,
    label: bool = True,
) -> Path:
    """Write an OME-TIFF whose coarser levels are SubIFDs, with a label image in addition to the slide.

    Parameters
    ----------
    path
        Output file.
    picture
        The slide's pixels.
    tile
        Side of the tiles in pixels.
    compression, quality
        As for :func:`encode_tile`.
    factors
        Reduction of each level, starting with 1.
    physical_size, unit
        PhysicalSizeX and Y and their unit, as written; ``None`` omits them.
    objective_power
        NominalMagnification, or ``None``.
    label
        Whether to add a label image.

    Returns
    -------
    Path
        ``path``.
    """
    size = "".join(
        f' PhysicalSize{axis}="{physical_size:g}" PhysicalSize{axis}Unit="{unit}"'
        for axis in "XY"
        if physical_size is not None
    )
    objective = (
        f'<Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="{objective_power:g}"/>'
        "</Instrument>"
        if objective_power is not None
        else ""
    )
    settings = '<ObjectiveSettings ID="Objective:0"/>' if objective_power is not None else ""

    def image(number: int, name: str, width: int, height: int, inner: str, attributes: str, ifd: int) -> str:
        return (
            f'<Image ID="Image:{number}" Name="{name}">{inner}<Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" '
            f'Type="uint8" SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1" Interleaved="true"'
            f"{attributes}>"
            f'<Channel ID="Channel:{number}:0" SamplesPerPixel="3"/><TiffData IFD="{ifd}" PlaneCount="1"/>'
            "</Pixels></Image>"
        )

    images = image(0, "slide", picture.width, picture.height, settings, size, 0)
    images += image(1, "label image", 240, 200, "", "", 1) if label else ""
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f"{objective}{images}</OME>"
    )
    with tifffile.TiffWriter(path, bigtiff=True, ome=False) as tif:
        for index, factor in enumerate(factors):
            _write_level(
                tif,
                picture,
                index,
                factor,
                (tile, tile),
                tiled=True,
                compression=compression,
                code=_TIFF_CODES[compression],
                quality=quality,
                mpp=None,
                # tifffile encodes text as ASCII; UTF-8 bytes are passed through.
                description=xml.encode() if index == 0 else None,
                shared_tables=False,
                omitted=None,
                predictor=False,
                subfiletype=1 if index else 0,
                subifds=len(factors) - 1 if index == 0 else None,
            )
        if label:
            _write_strips(tif, _forbidden(), "label image", 0)
    return path


def write_dicom(
    folder: Path,
    picture: Picture,
    *,
    tile: int = 256,
    syntax: DicomSyntax = "jpeg",
    quality: int = 80,
    factors: Sequence[int] = (1, 4),
    mpp: float = 0.5,
    objective_power: float = 20,
    offsets: Literal["basic", "extended", "none"] = "basic",
    organisation: Literal["TILED_FULL", "TILED_SPARSE"] = "TILED_FULL",
    omitted: Callable[[int, int, int], bool] | None = None,
    fragments: int = 1,
    concatenated: int = 1,
    patient: str = "DOE^JANE",
) -> Path:
    """Write a DICOM whole-slide series: one instance per level, plus a label and an overview.

    Parameters
    ----------
    folder
        Output folder; created if missing.
    picture
        The slide's pixels.
    tile
        Side of the frames in pixels.
    syntax
        Transfer syntax of the frames.
    quality
        As for :func:`encode_tile`.
    factors
        Reduction of each level, starting with 1.
    mpp, objective_power
        Written as PixelSpacing (mm) and ObjectiveLensPower.
    offsets
        Type of offset table to write.
    organisation
        Frames in order, or with explicit positions.
    omitted
        With TILED_SPARSE: predicate of level index, column and row, true for frames to omit.
    fragments
        Number of fragments per frame; above 1, the extended table is not allowed.
    concatenated
        Number of files for level 0.
    patient
        Name of the (fictitious) patient, which no reader may show.

    Returns
    -------
    Path
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame_of_reference = uid.generate_uid(), uid.generate_uid(), uid.generate_uid()
    kinds = [("VOLUME", factor) for factor in factors]
    for number, (kind, factor) in enumerate([*kinds, ("LABEL", 0), ("OVERVIEW", 0)]):
        source = picture if factor else ArrayPicture(_forbidden())
        width, height = source.level_size(factor or 1)
        columns, rows = -(-width // tile), -(-height // tile)
        places = [
            (column, row)
            for row in range(rows)
            for column in range(columns)
            if not (organisation == "TILED_SPARSE" and factor and omitted is not None and omitted(number, column, row))
        ]
        parts = concatenated if number == 0 else 1
        whole = uid.generate_uid()
        for part in range(parts):
            begin, end = len(places) * part // parts, len(places) * (part + 1) // parts
            header = _dicom_header(patient, study, series, frame_of_reference, number, kind, mpp * (factor or 50))
            header.file_meta.TransferSyntaxUID, header.PhotometricInterpretation = _SYNTAXES[syntax]
            header.Rows = header.Columns = tile
            header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = width, height
            header.ImagedVolumeWidth = width * mpp * (factor or 50) / 1000
            header.ImagedVolumeHeight = height * mpp * (factor or 50) / 1000
            header.NumberOfFrames = end - begin
            header.DimensionOrganizationType = organisation
            header.OpticalPathSequence[0].ObjectiveLensPower = objective_power
            if parts > 1:
                header.ConcatenationUID = whole
                header.InConcatenationNumber = part + 1
                header.InConcatenationTotalNumber = parts
                header.ConcatenationFrameOffsetNumber = begin
            if organisation == "TILED_SPARSE":
                header.PerFrameFunctionalGroupsSequence = [
                    _stated_place(column * tile, row * tile) for column, row in places[begin:end]
                ]
            frames = (
                _dicom_frame(source.reduced(factor or 1, column * tile, row * tile, tile, tile), syntax, quality)
                for column, row in places[begin:end]
            )
            _write_instance(folder / f"{header.SOPInstanceUID}.dcm", header, frames, offsets, fragments)
    return folder


def _dicom_header(
    patient: str, study: str, series: str, frame_of_reference: str, number: int, kind: str, mpp: float
) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = uid.VLWholeSlideMicroscopyImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = uid.generate_uid()
    header.StudyInstanceUID, header.SeriesInstanceUID = study, series
    header.FrameOfReferenceUID = frame_of_reference
    header.ImageType = [
        "ORIGINAL" if number == 0 else "DERIVED",
        "PRIMARY",
        kind,
        "NONE" if number == 0 else "RESAMPLED",
    ]
    header.Modality = "SM"
    header.Manufacturer = "synthetic"
    header.PatientName, header.PatientID, header.PatientBirthDate = patient, "12345678", "19500101"
    header.AccessionNumber, header.ContainerIdentifier = "ACC-1", "S-1"
    header.StudyDate, header.StudyTime, header.StudyID = "20200102", "030405", "1"
    header.InstanceNumber = number + 1
    header.SamplesPerPixel, header.PlanarConfiguration = 3, 0
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.TotalPixelMatrixFocalPlanes = header.NumberOfOpticalPaths = 1
    header.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    measures = Dataset()
    measures.PixelSpacing = [f"{mpp / 1000:.8g}"] * 2
    measures.SliceThickness = 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    optics = Dataset()
    optics.OpticalPathIdentifier = "1"
    header.OpticalPathSequence = [optics]
    return header


def _stated_place(x: int, y: int) -> Dataset:
    place = Dataset()
    place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
    place.ZOffsetInSlideCoordinateSystem = 0
    group = Dataset()
    group.PlanePositionSlideSequence = [place]
    return group


def _dicom_frame(pixels: NDArray[np.uint8], syntax: DicomSyntax, quality: int) -> bytes:
    if syntax == "rle":
        data = RLELosslessEncoder.encode(
            pixels,
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=3,
            bits_allocated=8,
            bits_stored=8,
            pixel_representation=0,
            photometric_interpretation="RGB",
            number_of_frames=1,
            planar_configuration=0,
        )
    else:
        data = encode_tile(pixels, "jpeg-422" if syntax == "jpeg" else syntax, quality)
    return data + b"\0" * (len(data) % 2)


def _write_instance(
    path: Path,
    header: Dataset,
    frames: Iterator[bytes],
    offsets: Literal["basic", "extended", "none"],
    fragments: int,
) -> None:
    """Write the header, then the pixel data frame by frame; frames are buffered on disk until offsets are known."""
    native = not header.file_meta.TransferSyntaxUID.is_compressed
    with tempfile.TemporaryFile() as waiting:
        starts, lengths, position = [], [], 0
        for frame in frames:
            starts.append(position)
            lengths.append(len(frame))
            if native:
                position += waiting.write(frame)
                continue
            step = max(2, -(-len(frame) // fragments) // 2 * 2 + 2) if fragments > 1 else len(frame)
            for begin in range(0, len(frame), step):
                piece = frame[begin : begin + step]
                position += waiting.write(b"\xfe\xff\x00\xe0" + len(piece).to_bytes(4, "little") + piece)
        if offsets == "extended" and not native:
            header.ExtendedOffsetTable = np.array(starts, "<u8").tobytes()
            header.ExtendedOffsetTableLengths = np.array(lengths, "<u8").tobytes()
        pydicom.dcmwrite(path, header, enforce_file_format=True)
        with path.open("ab") as file:
            if native:
                file.write(b"\xe0\x7f\x10\x00OB\0\0" + (position + position % 2).to_bytes(4, "little"))
            else:
                table = np.array(starts, "<u4").tobytes() if offsets == "basic" else b""
                file.write(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff")
                file.write(b"\xfe\xff\x00\xe0" + len(table).to_bytes(4, "little") + table)
            waiting.seek(0)
            while chunk := waiting.read(1 << 20):
                file.write(chunk)
            file.write(b"\0" * (position % 2) if native else b"\xfe\xff\xdd\xe0\0\0\0\0")
