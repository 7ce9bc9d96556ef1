"""The patch store: one slide's patches in zarr v3, readable with plain zarr.

Layout of ``<name>.zarr`` (a zarr v3 group):

====================  ==========================  ===========================================================
``coords``            ``(N, 2)`` int32            level-0 ``(x, y)`` of the patches' top left corners
``tissue``            ``(N,)`` float32            tissue share of each patch
``slots``             ``(N,)`` int64              place of the patch along the first axis of ``pixels``
``positions``         ``(N,)`` int32              place of the patch among its block's positions, row-major
``blocks``            ``(K,)`` int32              grid blocks that hold patches
``offsets``           ``(K + 1,)`` int64          block ``k`` holds patches ``offsets[k]`` to ``offsets[k + 1]``
``damaged``           ``(K * S,)`` bool           by slot: a stored tile under the patch cannot be decoded
``pixels``            ``(K * S, P, P, 3)`` uint8  only in mode ``decoded``; one shard of ``S`` slots a block
====================  ==========================  ===========================================================

The group's attributes carry the slide's fingerprint, the grid and the mode.  A block's shard is written aside
and renamed into place, so a shard that is there is whole; a store without ``complete: true`` is resumed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from pathology.errors import OutputError, StoreError
from pathology.settings import GridSettings
from pathology.tiling.blocks import BlockPatches, BlockReader
from pathology.tiling.grid import Grid
from pathology.tiling.plan import TilePlan

if TYPE_CHECKING:
    import dask.array

    from pathology.slide.reader import SlideReader

__all__ = ["FORMAT", "PatchStore", "StoreMode"]

FORMAT = 1
"""Version of the layout, in the group's attributes."""

StoreMode = Literal["reference", "decoded"]


class PatchStore:
    """The patches of one slide.

    Open one with :meth:`open`, begin one with :meth:`create`.  Indexing gives patches::

        store = PatchStore.open("slide.zarr")
        first = store[0]          # (P, P, 3) uint8
        few = store[[3, 1, 4]]    # (3, P, P, 3) uint8

    A store in mode ``reference`` reads them from the slide, which must still be where it was or be given again.
    """

    def __init__(self, group: zarr.Group, path: Path, reader: SlideReader | None = None) -> None:
        self._group = group
        self._reader = reader
        self.path = path

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
            If there is no store, its format is newer than this version reads, it is not complete, or the slide
            given is another one.
        """
        path = Path(path)
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise StoreError(
                "there is no patch store here", where=path, remedy="Make one with: pathology tile SLIDE"
            ) from error
        if group.attrs.get("format") != FORMAT:
            raise StoreError(
                f"the store has format {group.attrs.get('format')!r}; this version reads {FORMAT}", where=path
            )
        if not group.attrs.get("complete", False):
            raise StoreError(
                "the store is not finished", where=path, remedy="Run the same pathology tile command again; it resumes"
            )
        store = cls(group, path)
        if store.mode == "reference":
            store._reader = store._open_slide(Path(slide) if slide is not None else Path(str(group.attrs["slide"])))
        return store

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Open a store that is being written, for writing."""
        return cls(zarr.open_group(path, mode="r+"), path)

    def _open_slide(self, slide: Path) -> SlideReader:
        from pathology.slide.open import open_slide

        reader = open_slide(slide)
        if reader.fingerprint != self.fingerprint:
            reader.close()
            raise StoreError(
                f"the slide at {slide} is not the one this store was made from",
                where=self.path,
                remedy="Make the store again",
            )
        return reader

    @classmethod
    def create(
        cls, path: Path, plan: TilePlan, mode: StoreMode, *, slide: Path, fingerprint: str, description: dict[str, Any]
    ) -> Self:
        """Begin a store, or go on with one that an interrupted run left for the same slide and settings.

        Parameters
        ----------
        path
            The ``.zarr`` folder to write.
        plan
            The patches.
        mode
            ``reference`` keeps coordinates only, ``decoded`` pixels.
        slide, fingerprint
            The slide file and its fingerprint.
        description
            Further attributes: reader, scale and its source, settings.

        Raises
        ------
        StoreError
            If another store is there.
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
        try:
            if path.exists():
                group = zarr.open_group(path, mode="r+")
                same = all(group.attrs.get(key) == value for key, value in attributes.items())
                if not same:
                    raise StoreError(
                        "another store is here (other slide, grid or mode)",
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
            for name, values in (
                ("coords", plan.coords),
                ("tissue", plan.tissue),
                ("slots", slots.astype(np.int64)),
                ("positions", plan.positions),
                ("blocks", plan.blocks),
            ):
                _write(group, name, values)
            if mode == "decoded":
                # One chunk a block, so that each has one writer; chunks without damage are never written.
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
                    compressors=BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"),
                    fill_value=255,
                )
            group.attrs.update(attributes)
            _write(group, "offsets", plan.offsets)  # written last: its presence means the index is whole
        except OSError as error:
            raise OutputError(f"the store cannot be written ({error.strerror or error})", where=path) from error
        return cls(group, path)

    # -- what is in it ---------------------------------------------------------------------------------------

    @property
    def mode(self) -> StoreMode:
        """``reference`` or ``decoded``."""
        return self._group.attrs["mode"]  # type: ignore[return-value]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the slide the store was made from."""
        return str(self._group.attrs["fingerprint"])

    @property
    def attributes(self) -> dict[str, Any]:
        """Everything recorded about how the store was made."""
        return dict(self._group.attrs)

    @property
    def grid(self) -> Grid:
        """The grid the patches lie on."""
        a = self.attributes
        width, height = a["dimensions"]
        return Grid(GridSettings.model_validate(a["grid"]), (width, height), a["slide_mpp"])

    @property
    def coords(self) -> NDArray[np.int32]:
        """``(N, 2)`` level-0 ``(x, y)`` top left corners."""
        return self._array("coords")

    @property
    def tissue(self) -> NDArray[np.float32]:
        """``(N,)`` tissue share of each patch, 0 to 1."""
        return self._array("tissue")

    @property
    def readable(self) -> NDArray[np.bool_]:
        """``(N,)`` false where a stored tile under the patch could not be decoded.

        A ``reference`` store holds no pixels and so has read none: all true.
        """
        if "damaged" not in self._group:
            return np.ones(len(self), np.bool_)
        damaged: NDArray[np.bool_] = self._array("damaged")[self._array("slots")]
        return ~damaged

    @property
    def plan(self) -> TilePlan:
        """The patches as a plan."""
        return TilePlan(
            self.grid, self.coords, self.tissue, self._array("positions"), self._array("blocks"), self._array("offsets")
        )

    def _array(self, name: str) -> NDArray[Any]:
        return np.asarray(self._group[name][:])  # type: ignore[index]

    def __len__(self) -> int:
        """Number of patches."""
        return int(self._group["coords"].shape[0])  # type: ignore[union-attr]

    def __getitem__(self, index: int | slice | list[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return one patch ``(P, P, 3)`` or several ``(n, P, P, 3)``, uint8."""
        chosen = np.arange(len(self))[index]
        if np.ndim(chosen) == 0:
            return self._pixels(np.array([chosen]))[0]
        return self._pixels(np.asarray(chosen))

    def _pixels(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        if self.mode == "decoded":
            slots = self._array("slots")[indices]
            pixels: NDArray[np.uint8] = np.asarray(self._group["pixels"].oindex[slots])  # type: ignore[union-attr]
            return pixels
        plan = self.plan
        patch = plan.grid.settings.patch
        result = np.empty((len(indices), patch, patch, 3), np.uint8)
        assert self._reader is not None
        blocks = BlockReader(self._reader, plan.grid)
        owner = np.searchsorted(plan.offsets, indices, side="right") - 1
        for k in np.unique(owner):
            here = np.flatnonzero(owner == k)
            result[here] = blocks.read(int(plan.blocks[k]), plan.positions[indices[here]]).pixels
        return result

    def to_dask(self) -> dask.array.Array:
        """Return all patches as a lazy ``(N, P, P, 3)`` uint8 array, one chunk a block."""
        import dask.array as da
        from dask.delayed import delayed

        plan = self.plan
        patch = plan.grid.settings.patch
        parts = [
            da.from_delayed(
                delayed(self.__getitem__)(plan.of_block(k)),
                (int(plan.offsets[k + 1] - plan.offsets[k]), patch, patch, 3),
                np.uint8,
            )
            for k in range(len(plan.blocks))
        ]
        lazy: dask.array.Array = da.concatenate(parts) if parts else da.zeros((0, patch, patch, 3), dtype=np.uint8)
        return lazy

    # -- writing -----------------------------------------------------------------------------------------------

    def has_block(self, k: int) -> bool:
        """Whether the pixels of the ``k``-th block are stored."""
        return (self.path / "pixels" / "c" / str(k) / "0" / "0" / "0").exists()

    def write_block(self, k: int, patches: BlockPatches) -> None:
        """Store the pixels of the ``k``-th block as one shard.

        Parameters
        ----------
        k
            Place among the blocks that hold patches.
        patches
            All patches of the block.

        Raises
        ------
        OutputError
            If the shard cannot be written.
        """
        slots = int(self._group.attrs["slots_per_block"])  # type: ignore[arg-type]
        place = slice(k * slots, (k + 1) * slots)
        shard = np.full((slots, *patches.pixels.shape[1:]), 255, np.uint8)
        shard[: len(patches.pixels)] = patches.pixels
        try:
            if not patches.readable.all():
                damaged = np.zeros(slots, np.bool_)
                damaged[: len(patches.readable)] = ~patches.readable
                self._group["damaged"][place] = damaged  # type: ignore[index]
            # One assignment over exactly one shard is one write, which zarr's local store makes aside and renames.
            self._group["pixels"][place] = shard  # type: ignore[index]
        except OSError as error:
            raise OutputError(f"a block cannot be written ({error.strerror or error})", where=self.path) from error

    def finish(self) -> None:
        """Mark the store complete."""
        self._group.attrs["complete"] = True

    def close(self) -> None:
        """Close the slide behind a ``reference`` store."""
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=tuple(max(1, n) for n in values.shape)
    )
    array[...] = values
