"""Test suite for inference engines; inherit from it.

::

    class TestMyEngine(EngineSuite):
        @pytest.fixture
        def engine(self, bundle):
            return MyEngine(bundle)
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.inference.engines.base import Engine

__all__ = ["EngineSuite"]


class EngineSuite:
    """Tests of an engine; subclasses define the fixtures ``engine`` and ``expected``."""

    tolerance = 1e-4
    """Largest difference from the fp32 reference."""

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine under test; defined by the subclass."""
        raise NotImplementedError("subclasses of EngineSuite must define the fixture engine")

    @pytest.fixture
    def patches(self, engine: Engine) -> NDArray[np.uint8]:
        """Patches to predict: more than two batches, but not an integer number of them."""
        count = engine.batch_size * 2 + 3
        rng = np.random.default_rng(7)
        base = rng.integers(60, 240, (count, 1, 1, 3))
        noise = rng.normal(0, 25, (count, engine.patch, engine.patch, 3))
        return np.clip(base + noise, 0, 255).astype(np.uint8)

    @pytest.fixture
    def expected(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same patches' probabilities from plain fp32 torch; defined by the subclass."""
        raise NotImplementedError("subclasses of EngineSuite must define the fixture expected")

    def test_agrees_with_the_reference(
        self, engine: Engine, patches: NDArray[np.uint8], expected: NDArray[np.float32]
    ) -> None:
        """Probabilities match the network's."""
        got = engine.predict(patches)
        assert got.shape == (len(patches), engine.classes)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
        assert np.abs(got - expected).max() <= self.tolerance

    def test_a_patch_depends_on_itself_alone(self, engine: Engine, patches: NDArray[np.uint8]) -> None:
        """Bit for bit, whatever its position in the batch and the other patches."""
        whole = engine.predict(patches)
        order = np.random.default_rng(0).permutation(len(patches))
        np.testing.assert_array_equal(engine.predict(patches[order]), whole[order])
        np.testing.assert_array_equal(engine.predict(patches[:1]), whole[:1])
        np.testing.assert_array_equal(engine.predict(patches[-2:]), whole[-2:])

    def test_repeats_itself(self, engine: Engine, patches: NDArray[np.uint8]) -> None:
        """The same input gives the same output."""
        np.testing.assert_array_equal(engine.predict(patches), engine.predict(patches))

    def test_no_patches_give_no_predictions(self, engine: Engine) -> None:
        """An empty batch is allowed."""
        empty = np.empty((0, engine.patch, engine.patch, 3), np.uint8)
        assert engine.predict(empty).shape == (0, engine.classes)

    def test_read_only_patches_are_taken(self, engine: Engine, patches: NDArray[np.uint8]) -> None:
        """Read-only views of a store are accepted and not written to."""
        frozen = patches[: engine.batch_size].copy()
        before = frozen.copy()
        frozen.flags.writeable = False
        engine.predict(frozen)
        np.testing.assert_array_equal(frozen, before)

    @pytest.mark.parametrize("shape", [(1, 8, 8, 3), (224, 224, 3)])
    def test_wrong_shapes_are_refused(self, engine: Engine, shape: tuple[int, ...]) -> None:
        """The message states the expected and the given shape."""
        with pytest.raises(UsageError, match="expected"):
            engine.predict(np.zeros(shape, np.uint8))

    def test_floats_are_refused(self, engine: Engine) -> None:
        """The engine normalises, so it takes raw pixels."""
        with pytest.raises(UsageError, match="uint8"):
            engine.predict(np.zeros((1, engine.patch, engine.patch, 3), np.float32))

    def test_says_what_it_is(self, engine: Engine) -> None:
        """Its description goes into the run record."""
        assert engine.name in engine.description
        assert engine.device in engine.description
        assert engine.precision in ("fp32", "bf16", "fp16", "int8")

    def test_closes_twice(self, engine: Engine) -> None:
        """Closing is idempotent."""
        engine.close()
        engine.close()
