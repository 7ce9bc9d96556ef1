"""The patch store: one slide's patches in zarr v3, readable with plain zarr.

Layout of ``<name>.zarr`` (a zarr v3 group):

====================  ==========================  ===========================================================
``coords``            ``(N, 2)`` int32            level-0 ``(x, y)`` of the patches' top left corners
``tissue``            ``(N,)`` float32            tissue fraction of each patch
``slots``             ``(N,)`` int64              index of the patch along the first axis of ``pixels``
``positions``         ``(N,)`` int32              row-major index of the patch among its block's positions
``blocks``            ``(K,)`` int32              grid blocks that contain patches
``offsets``           ``(K + 1,)`` int64          block ``k`` has patches ``offsets[k]`` to ``offsets[k + 1]``
``damaged``           ``(K * S,)`` bool           by slot: a stored tile under the patch cannot be decoded
``pixels``            ``(K * S, P, P, 3)`` uint8  not in mode ``reference``; one shard of ``S`` slots per block
``quality``           ``(N, 5)`` float32          fraction of each patch with pen, blur, fold, bubble, dark
``left_out_coords``   ``(M, 2)`` int32            corners of patches with tissue, excluded for artefacts
``left_out_tissue``   ``(M,)`` float32            their tissue fractions
``left_out_quality``  ``(M, 5)`` float32          their fractions of pen, blur, fold, bubble, dark
``left_out_over``     ``(M, 5)`` bool             which of these exceed their limit
====================  ==========================  ===========================================================

The last five exist if quality was assessed.  The group's attributes hold the slide's fingerprint, the grid, the mode,
the names of the artefacts, and the fitted stain normalisation, if any.  A block's shard is written to a temporary file
and renamed into place, so an existing shard is complete; a store without ``complete: true`` is resumed.

In mode ``decoded`` the chunks of ``pixels`` are compressed patches; in mode ``encoded`` they are the slide's own
stored tiles, byte for byte (:mod:`pathology.tiling.stored_tile_codec`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from pathology.errors import OutputError, StoreError
from pathology.formatting import scale
from pathology.input_files import read_json
from pathology.notebook import PICTURE_SIDE, html_summary
from pathology.settings import GridSettings
from pathology.slide.readers.base import BACKGROUND
from pathology.slide.readers.codecs import decoding_memory
from pathology.slide.readers.packed_tiles import PackedTiles
from pathology.slide.readers.tile_encoding import TileEncoding
from pathology.slide.stain.normalise import StainNormaliser
from pathology.slide.tissue.quality import ARTEFACTS
from pathology.tiling.blocks import BlockPatches, BlockReader
from pathology.tiling.grid import Grid
from pathology.tiling.patch_compression import compress, decompress, zarr_codec
from pathology.tiling.plan import ExcludedPatches, TilePlan
from pathology.tiling.shard import read_chunks, shard_is_whole, write_packed_shard, write_shard
from pathology.tiling.stored_tile_codec import StoredTileCodec, fitted

if TYPE_CHECKING:
    import dask.array

    from pathology.slide.readers.base import SlideReader
    from pathology.tiling.stored_tiles import StoredTiles

__all__ = ["FORMAT", "PatchStore", "StoreMode"]

FORMAT = 1
"""Version of the layout, in the group's attributes."""

_PATCH_COLOUR = (196, 110, 158)
"""Colour of patches on the notebook map: eosin pink."""

StoreMode = Literal["reference", "encoded", "decoded"]


class PatchStore:
    """The patches of one slide.

    Open one with :meth:`open`, create one with :meth:`create`.  Indexing returns patches::

        store = PatchStore.open("slide.zarr")
        first = store[0]          # (P, P, 3) uint8
        few = store[[3, 1, 4]]    # (3, P, P, 3) uint8

    A store in mode ``reference`` reads them from the slide; if the slide has moved, pass its new path.
    Stores are pickled by their path.  Reading is thread-safe.
    """

    def __init__(self, group: zarr.Group, path: Path, reader: SlideReader | None = None) -> None:
        self._group = group
        self._reader = reader
        self.path = path

    def __repr__(self) -> str:
        grid = self.grid.settings
        return (
            f"PatchStore({self.path.name!r}: {len(self)} patches of {grid.patch} px at {scale(grid.mpp)}, {self.mode})"
        )

    def _repr_html_(self) -> str:
        """Show a summary and a map of the patches in a notebook."""
        grid, (width, height) = self.grid.settings, self.grid.dimensions
        facts: dict[str, object] = {
            "Patches": f"{len(self)} of {grid.patch} px at {scale(grid.mpp)}, {grid.stride} px apart",
            "Mode": self.mode,
            "Slide": f"{Path(str(self.attributes['slide'])).name}, {width} × {height} px",
        }
        if self.stain is not None:
            facts["Stain normalisation"] = self.attributes["stain"]["method"]
        return html_summary(self.path.name, facts, self._map())

    def _map(self) -> NDArray[np.uint8]:
        """Return an ``(H, W, 3)`` RGB map of the patches on the slide."""
        width, height = self.grid.dimensions
        shrink = PICTURE_SIDE / max(width, height)
        picture = np.full((max(1, round(height * shrink)), max(1, round(width * shrink)), 3), BACKGROUND, np.uint8)
        corners = np.maximum(self.coords, 0)
        first = np.floor(corners * shrink).astype(int)
        until = np.ceil((corners + self.grid.settings.patch * self.grid.scale) * shrink).astype(int)
        for (left, top), (right, bottom) in zip(first, until, strict=True):
            picture[top:bottom, left:right] = _PATCH_COLOUR
        return picture

    # -- opening and creating ------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, slide: str | os.PathLike[str] | None = None) -> Self:
        """Open an existing store.

        Parameters
        ----------
        path
            The ``.zarr`` folder.
        slide
            The slide file, for a ``reference`` store whose slide has moved.

        Raises
        ------
        StoreError
            If there is no store, its format is not supported by this version, it is not complete, or the given slide is
            a different one.
        """
        path = Path(path)
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise StoreError(
                "no patch store here", where=path, remedy="Create one with: pathology tile SLIDE"
            ) from error
        if group.attrs.get("format") != FORMAT:
            raise StoreError(
                f"the store has format {group.attrs.get('format')!r}; this version reads {FORMAT}", where=path
            )
        if not group.attrs.get("complete", False):
            raise StoreError(
                "the store is incomplete", where=path, remedy="Run the same pathology tile command again; it resumes"
            )
        store = cls(group, path)
        if store.mode == "reference":
            store._reader = store._open_reader(Path(slide) if slide is not None else Path(str(group.attrs["slide"])))
        return store

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Open an incomplete store for writing."""
        return cls(zarr.open_group(path, mode="r+"), path)

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled as a path (Dask, data loaders): zarr handles and file descriptors cannot be pickled.
        return _reopen, (type(self), self.path, self.slide_path)

    def _open_reader(self, slide: Path) -> SlideReader:
        from pathology.slide.open import open_reader

        reader = open_reader(slide)
        if reader.fingerprint != self.fingerprint:
            reader.close()
            raise StoreError(
                f"the slide at {slide} is not the one this store was created from",
                where=self.path,
                remedy="Create the store again",
            )
        return reader

    @classmethod
    def create(
        cls,
        path: Path,
        plan: TilePlan,
        mode: StoreMode,
        *,
        slide: Path,
        fingerprint: str,
        description: dict[str, Any],
        tiles: StoredTiles | None = None,
        stain: StainNormaliser | None = None,
    ) -> Self:
        """Create a store, or resume one that an interrupted run left for the same slide and settings.

        Parameters
        ----------
        path
            The ``.zarr`` folder to write.
        plan
            The patches.
        mode
            ``reference`` stores only coordinates, ``encoded`` the slide's stored tiles, ``decoded`` pixels.
        slide, fingerprint
            The slide file and its fingerprint.
        description
            Further attributes: reader, scale and its source, settings.
        tiles
            For mode ``encoded``: the stored tiles that make up the patches.
        stain
            The normalisation already applied to the patches (``decoded``) or applied on reading (``reference``).

        Raises
        ------
        StoreError
            If a different store exists at this path.
        OutputError
            If the folder cannot be written.
        """
        attributes = {
            **description,
            "format": FORMAT,
            "mode": mode,
            "slide": str(slide.resolve()),
            "fingerprint": fingerprint,
            "grid": plan.grid.settings.model_dump(mode="json"),
            "dimensions": list(plan.grid.dimensions),
            "slide_mpp": plan.grid.slide_mpp,
            "slots_per_block": plan.grid.patches_per_block**2,
        }
        if plan.quality is not None:
            attributes["artefacts"] = list(ARTEFACTS)
        if stain is not None:
            attributes["stain"] = stain.record()
        if tiles is not None:
            attributes["level"] = {"index": tiles.level, "dimensions": list(tiles.dimensions)}
        try:
            if path.exists():
                group = zarr.open_group(path, mode="r+")
                same = all(group.attrs.get(key) == value for key, value in attributes.items())
                if not same:
                    raise StoreError(
                        "a different store exists here (other slide, grid or mode)",
                        where=path,
                        remedy="Choose another --out or delete it",
                    )
                if "coords" in group and "offsets" in group:
                    return cls(group, path)
            path.parent.mkdir(parents=True, exist_ok=True)
            group = zarr.open_group(path, mode="w", zarr_format=3)
            slots_per_block = plan.grid.patches_per_block**2
            slots = np.concatenate(
                [
                    k * plan.grid.patches_per_block**2 + np.arange(plan.offsets[k + 1] - plan.offsets[k])
                    for k in range(len(plan.blocks))
                ]
                or [np.empty(0, np.int64)]
            )
            arrays: dict[str, NDArray[Any]] = {
                "coords": plan.coords,
                "tissue": plan.tissue,
                "slots": slots.astype(np.int64),
                "positions": plan.positions,
                "blocks": plan.blocks,
            }
            if plan.quality is not None and plan.excluded is not None:
                arrays["quality"] = plan.quality
                arrays |= {
                    f"left_out_{field.name}": getattr(plan.excluded, field.name) for field in fields(plan.excluded)
                }
            for name, values in arrays.items():
                _write_array(group, name, values)
            if mode != "reference":
                # One chunk per block, so that each has one writer; chunks without damage are never written.
                group.create_array(
                    "damaged",
                    shape=(len(plan.blocks) * slots_per_block,),
                    chunks=(slots_per_block,),
                    dtype="bool",
                    fill_value=False,
                )
                patch = plan.grid.settings.patch
                group.create_array(
                    "pixels",
                    shape=(len(plan.blocks) * slots_per_block, patch, patch, 3),
                    chunks=(1, patch, patch, 3),
                    shards=(slots_per_block, patch, patch, 3),
                    dtype="uint8",
                    serializer="auto" if tiles is None else StoredTileCodec(tiles.encoding),
                    compressors=zarr_codec() if tiles is None else None,
                    fill_value=BACKGROUND,
                    # One file per block, not a file in four nested folders.
                    chunk_key_encoding={"name": "default", "separator": "."},
                )
            group.attrs.update(attributes)
            _write_array(group, "offsets", plan.offsets)  # written last: its presence means the index is complete
        except OSError as error:
            raise OutputError(f"the store cannot be written ({error.strerror or error})", where=path) from error
        return cls(group, path)

    # -- content ---------------------------------------------------------------------------------------------

    @property
    def mode(self) -> StoreMode:
        """``reference``, ``encoded`` or ``decoded``."""
        return self._group.attrs["mode"]  # type: ignore[return-value]

    @property
    def slide_path(self) -> Path | None:
        """The slide that a ``reference`` store reads from; ``None`` for other modes."""
        return self._reader.path if self._reader is not None else None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the slide the store was created from."""
        return str(self._group.attrs["fingerprint"])

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """All metadata recorded when the store was created."""
        return dict(self._group.attrs)

    @cached_property
    def grid(self) -> Grid:
        """The grid of the patches."""
        a = self.attributes
        width, height = a["dimensions"]
        return Grid(GridSettings.model_validate(a["grid"]), (width, height), a["slide_mpp"])

    @cached_property
    def coords(self) -> NDArray[np.int32]:
        """``(N, 2)`` level-0 ``(x, y)`` top left corners."""
        return self._array("coords")

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """``(N,)`` tissue fraction of each patch, 0 to 1."""
        return self._array("tissue")

    @property
    def quality(self) -> NDArray[np.float32] | None:
        """``(N, 5)`` fraction of each patch covered by pen, blur, fold, bubble and dark; ``None`` if not assessed."""
        return self.plan.quality

    @property
    def excluded(self) -> ExcludedPatches | None:
        """Patches with tissue that were excluded for artefacts; ``None`` if quality was not assessed."""
        return self.plan.excluded

    @cached_property
    def stain(self) -> StainNormaliser | None:
        """The stain normalisation of the patches, if any."""
        record = self.attributes.get("stain")
        return StainNormaliser.from_record(record) if record is not None else None

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """``(N,)`` false where a stored tile under the patch could not be decoded.

        All true for a ``reference`` store, which has not read any pixels.  An ``encoded`` store only knows tiles that
        are missing or truncated; tiles damaged inside are detected by :meth:`read`, on decoding.
        """
        if "damaged" not in self._group:
            return np.ones(len(self), np.bool_)
        readable: NDArray[np.bool_] = ~self._array("damaged")[self._array("slots")]
        return readable

    @cached_property
    def plan(self) -> TilePlan:
        """The patches as a plan."""
        quality = excluded = None
        if "quality" in self._group:
            quality = self._array("quality")
            excluded = ExcludedPatches(**{f.name: self._array(f"left_out_{f.name}") for f in fields(ExcludedPatches)})
        return TilePlan(
            self.grid,
            self.coords,
            self.tissue,
            self._array("positions"),
            self._array("blocks"),
            self._array("offsets"),
            quality,
            excluded,
        )

    def _array(self, name: str) -> NDArray[Any]:
        return np.asarray(self._group[name][:])  # type: ignore[index]

    def __len__(self) -> int:
        """Number of patches."""
        return int(self._group["coords"].shape[0])  # type: ignore[union-attr]

    def __getitem__(self, index: int | slice | list[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return one patch ``(P, P, 3)`` or several ``(n, P, P, 3)``, uint8; unreadable ones are white."""
        chosen = np.asarray(np.arange(len(self))[index])
        pixels = self.read(chosen.reshape(-1)).pixels
        return pixels.reshape(*chosen.shape, *pixels.shape[1:])

    def read_block(self, k: int) -> BlockPatches:
        """Return all patches of the ``k``-th non-empty block."""
        part = self.plan.of_block(k)
        return self.read(np.arange(part.start, part.stop))

    def read(self, indices: NDArray[np.integer]) -> BlockPatches:
        """Return patches and whether each could be read.

        Parameters
        ----------
        indices
            ``(n,)`` non-negative indices of patches in the store.

        Returns
        -------
        BlockPatches
            ``(n, P, P, 3)`` uint8 pixels, white for unreadable patches, and ``(n,)`` bool.

        Raises
        ------
        StoreError
            If a block of the store is missing or damaged.
        """
        plan = self.plan
        patch = plan.grid.settings.patch
        result = BlockPatches(decoding_memory(len(indices), patch, patch, 3), np.ones(len(indices), np.bool_))
        owner = np.searchsorted(plan.offsets, indices, side="right") - 1
        for k in np.unique(owner):
            here = np.flatnonzero(owner == k)
            if self.mode == "reference":
                assert self._reader is not None
                recolour = self.stain.apply if self.stain is not None else None
                blocks = BlockReader(self._reader, plan.grid, recolour)
                found = blocks.read(int(plan.blocks[k]), plan.positions[indices[here]])
                result.pixels[here] = found.pixels
                result.readable[here] = found.readable
            else:
                self._read_shard(int(k), indices[here], here, result)
        return result

    def _read_shard(self, k: int, indices: NDArray[np.integer], places: NDArray[np.intp], result: BlockPatches) -> None:
        """Fill in the patches of one shard."""
        first = int(self.plan.offsets[k])
        result.readable[places] = self.readable[indices]
        for number, chunk in read_chunks(self._shard(k), self._slots_per_block, indices - first):
            place = places[number]
            if chunk is None:
                result.pixels[place] = BACKGROUND
            elif self._encoding is None:
                try:
                    decompress(chunk, result.pixels[place])
                except (ValueError, RuntimeError) as error:
                    raise StoreError(
                        "a block of the store is damaged", where=self._shard(k), remedy="Create the store again"
                    ) from error
            elif not self._decode(chunk, int(indices[number]), result.pixels[place]):
                result.readable[place] = False

    def _decode(self, chunk: bytes, index: int, out: NDArray[np.uint8]) -> bool:
        """Decode a stored tile; pixels outside the slide are white, whatever the tile contains there."""
        assert self._encoding is not None
        width, height = self._inside(index)
        try:
            tile = self._encoding.decode(chunk, out)
        except MemoryError:
            raise
        except Exception:  # codecs raise their own errors; the tile is unreadable
            out[:] = BACKGROUND
            return False
        if tile.shape[0] < height or tile.shape[1] < width:
            out[:] = BACKGROUND
            return False
        if tile is not out:
            out[:] = fitted(tile, *out.shape[:2])
        out[height:] = BACKGROUND
        out[:, width:] = BACKGROUND
        return True

    def _inside(self, index: int) -> tuple[int, int]:
        """``(width, height)`` in pixels of the part of a patch inside its level."""
        plan = self.plan
        k = int(np.searchsorted(plan.offsets, index, side="right")) - 1
        block = plan.grid.block(int(plan.blocks[k]))
        row, column = divmod(int(plan.positions[index]), block.columns)
        width, height = self.attributes["level"]["dimensions"]
        patch = plan.grid.settings.patch
        return (
            min(patch, max(0, width - (block.column + column) * patch)),
            min(patch, max(0, height - (block.row + row) * patch)),
        )

    @cached_property
    def _encoding(self) -> TileEncoding | None:
        """Tile compression in mode ``encoded``."""
        if self.mode != "encoded":
            return None
        # Parsed from the raw metadata, so that it works without the codec being registered with zarr.
        metadata = read_json(self.path / "pixels" / "zarr.json", StoreError)
        (sharding,) = metadata["codecs"]
        return StoredTileCodec.from_dict(sharding["configuration"]["codecs"][0]).encoding

    @cached_property
    def _slots_per_block(self) -> int:
        return int(self.attributes["slots_per_block"])

    def to_dask(self) -> dask.array.Array:
        """Return all patches as a lazy ``(N, P, P, 3)`` uint8 array, one chunk per block."""
        import dask.array as da
        from dask.delayed import delayed

        plan = self.plan
        patch = plan.grid.settings.patch
        parts = [
            da.from_delayed(
                delayed(_block_pixels)(self, k),
                (int(plan.offsets[k + 1] - plan.offsets[k]), patch, patch, 3),
                np.uint8,
            )
            for k in range(len(plan.blocks))
        ]
        lazy: dask.array.Array = da.concatenate(parts) if parts else da.zeros((0, patch, patch, 3), dtype=np.uint8)
        return lazy

    # -- writing -----------------------------------------------------------------------------------------------

    def _shard(self, k: int) -> Path:
        return self.path / "pixels" / _shard_name(k)

    def has_block(self, k: int) -> bool:
        """Whether the pixels of the ``k``-th block are stored, all of them."""
        return shard_is_whole(self._shard(k), self._slots_per_block)

    def write_block(self, k: int, patches: BlockPatches) -> None:
        """Store the pixels of the ``k``-th block as one shard.

        Parameters
        ----------
        k
            Index among the non-empty blocks.
        patches
            All patches of the block.

        Raises
        ------
        OutputError
            If the shard cannot be written.
        """
        chunks = (compress(patch) for patch in patches.pixels)
        self._write(k, patches.readable, lambda path, slots: write_shard(path, chunks, slots))

    def write_tiles(self, k: int, tiles: PackedTiles, readable: NDArray[np.bool_]) -> None:
        """Store the compressed tiles of the ``k``-th block as one shard.

        Parameters
        ----------
        k
            Index among the non-empty blocks.
        tiles, readable
            All tiles of the block, from :meth:`pathology.tiling.stored_tiles.StoredTiles.read`.

        Raises
        ------
        OutputError
            If the shard cannot be written.
        """
        self._write(k, readable, lambda path, slots: write_packed_shard(path, tiles, slots))

    def _write(self, k: int, readable: NDArray[np.bool_], write: Callable[[str, int], None]) -> None:
        slots = self._slots_per_block
        try:
            if not readable.all():
                damaged = np.zeros(slots, np.bool_)
                damaged[: len(readable)] = ~readable
                self._group["damaged"][k * slots : (k + 1) * slots] = damaged  # type: ignore[index]
            write(f"{self.path}/pixels/{_shard_name(k)}", slots)
        except OSError as error:
            raise OutputError(f"a block cannot be written ({error.strerror or error})", where=self.path) from error

    def finish(self) -> None:
        """Mark the store complete, and remove partial files left by a killed run."""
        for aside in (self.path / "pixels").glob(".*.writing"):
            aside.unlink(missing_ok=True)
        self._group.attrs["complete"] = True

    def close(self) -> None:
        """Close the slide of a ``reference`` store."""
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shard_name(k: int) -> str:
    return f"c.{k}.0.0.0"


def _reopen(kind: type[PatchStore], path: Path, slide: Path | None) -> PatchStore:
    return kind.open(path, slide=slide)


def _block_pixels(store: PatchStore, k: int) -> NDArray[np.uint8]:
    return store.read_block(k).pixels


def _write_array(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=tuple(max(1, n) for n in values.shape)
    )
    array[...] = values
