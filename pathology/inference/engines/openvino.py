"""The OpenVINO engine: the fastest engine on a CPU.

A bundle may include its network for OpenVINO (:mod:`pathology.bundle.graph`), which needs no torch, and an int8 version
of it (:mod:`pathology.inference.engines.quantise`).  Any other is converted from torch.  Each is prepared once and
cached, by the hash of its weights, in the user's cache folder.  Every stream computes a request with one thread, so
results do not depend on the number of cores.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from pathology.bundle.graph import (
    graph_fits,
    openvino_library,
    read_network,
)
from pathology.errors import OutputError, UsageError
from pathology.inference.engines.base import (
    Engine,
    Precision,
    available_cores,
    extra_outputs,
    outputs_per_patch,
    require_torch,
)
from pathology.settings import cache_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pathology.bundle.catalogue import Bundle

__all__ = [
    "OpenVINOEngine",
    "computes_bf16",
    "converted_model",
    "converted_network",
    "openvino_version",
    "read_graph",
    "save_graph",
]

_BATCH = 4
"""Patches per request.  Measured from 1 to 8: equal within a few per cent, and larger batches need more padding."""

_FIRST_USE = Lock()

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def computes_bf16() -> bool:
    """Whether the CPU supports bf16 natively."""
    return "BF16" in openvino_library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_version() -> str:
    """Return the installed version of OpenVINO."""
    return str(openvino_library().__version__)


def read_graph(path: Path, patch: int) -> Any:  # noqa: ANN401 - openvino.Model
    """Read a graph from its ``.xml`` and set the batch size of this engine's requests.

    Parameters
    ----------
    path
        As returned by :func:`converted_model`.
    patch
        Side of a patch in pixels.
    """
    model = openvino_library().Core().read_model(path)
    model.reshape([_BATCH, patch, patch, 3])
    return model


def save_graph(model: Any, path: Path) -> None:  # noqa: ANN401 - openvino.Model
    """Write a graph as ``.xml``, with its constants in a ``.bin`` file beside it."""
    openvino_library().save_model(model, path, compress_to_fp16=False)


def converted_model(bundle: Bundle, *, features: bool = False) -> Path:
    """Return the path of the model in OpenVINO's format (``.xml`` and ``.bin``), converting it on first use.

    Its input is ``(B, P, P, 3)`` uint8 and its output ``(B, C)`` probabilities: it includes normalisation, temperature
    and softmax.  The out-of-distribution score, and features if requested, follow as further columns.

    Raises
    ------
    MissingDependencyError
        If OpenVINO is not installed; torch, where the bundle has no network for OpenVINO, or features are wanted.
    OutputError
        If the cache folder cannot be written.
    """
    openvino = openvino_library()
    card = bundle.card
    parts = {
        "format": 3,
        "weights": card.weights_sha256,
        "network": [card.architecture, card.architecture_options, len(card.classes)],
        "detection": card.detection.model_dump(mode="json") if card.detection is not None else None,
        "input": [card.patch, card.normalisation.model_dump(mode="json"), card.calibration],
        "openvino": openvino.__version__,
    }
    extras = extra_outputs(card, features=features)
    if extras:
        rule = card.trust.out_of_domain if card.trust is not None else None
        parts["extras"] = [None if rule is None else (rule.sha256, rule.cell), features]
    convert: Callable[[Path], None] = partial(_convert, bundle, openvino=openvino, features=features)
    if not features and card.graph is not None and graph_fits(card):
        bundle.graph()  # refuses changed files, also where the network is in the cache
        parts["graph"] = [card.graph.graph_sha256, card.graph.constants_sha256]
        convert = partial(_rebuild, bundle)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return _cached(f"{card.architecture}-{key}", convert)


def converted_network(name: str, key: str, network: Callable[[], nn.Module], patch: int) -> Path:
    """Return the path of any network of patches in OpenVINO's format, converting it on first use.

    Parameters
    ----------
    name
        For the folder's name.
    key
        Changes with everything that determines the network's outputs.
    network
        Builds it: ``(B, patch, patch, 3)`` uint8 to ``(B, D)``.
    patch
        Side of a patch in pixels.

    Raises
    ------
    MissingDependencyError, OutputError
        As for :func:`converted_model`.
    """
    openvino = openvino_library()
    parts = [key, openvino.__version__]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return _cached(f"{name}-{digest}", lambda path: _export(network(), patch, path, openvino, True))


def _cached(name: str, convert: Callable[[Path], None]) -> Path:
    """Return the cached model of this name; where there is none, have it written aside and put in place."""
    folder = cache_folder() / "openvino" / name
    model = folder / "model.xml"
    if not model.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                aside = Path(scratch) / "model"
                aside.mkdir()
                convert(aside / "model.xml")
                # Another process may have finished first; its result is identical.
                try:
                    aside.replace(folder)
                except OSError:
                    if not model.exists():
                        shutil.rmtree(folder, ignore_errors=True)
                        aside.replace(folder)
        except OSError as error:
            raise OutputError(
                f"cannot cache the converted model ({error.strerror})",
                where=folder.parent,
                remedy="Set PATHOLOGY_CACHE to a writable folder",
            ) from error
    return model


def _rebuild(bundle: Bundle, path: Path) -> None:
    save_graph(read_network(bundle.directory, bundle.card), path)


def _convert(bundle: Bundle, path: Path, openvino: Any, features: bool) -> None:  # noqa: ANN401 - the module
    require_torch(f"running {bundle.name}, which has no network for OpenVINO,")
    import torch

    from pathology.inference.engines.torch import patch_classifier

    network = patch_classifier(bundle, features=features).eval()
    if bundle.card.task == "detection":
        with torch.inference_mode():  # some detectors cache what their first call computes, which an export would miss
            network(torch.zeros((_BATCH, bundle.card.patch, bundle.card.patch, 3), dtype=torch.uint8))
    # A classifier runs at more than one batch size, so the export must not fix this one in its reshapes.
    _export(network, bundle.card.patch, path, openvino, bundle.card.task == "classification")


def _export(network: nn.Module, patch: int, path: Path, openvino: Any, any_number: bool) -> None:  # noqa: ANN401
    import torch

    example = torch.zeros((_BATCH, patch, patch, 3), dtype=torch.uint8)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and OpenVINO, about their own internals
        model = _traced(network, example, openvino, any_number)
        if model is None:
            shapes = ({0: torch.export.Dim("patches", min=1, max=1024)},) if any_number else None
            model = openvino.convert_model(torch.export.export(network, (example,), dynamic_shapes=shapes))
    openvino.save_model(model, path, compress_to_fp16=False)


def _traced(network: nn.Module, example: Tensor, openvino: Any, any_number: bool) -> Any | None:  # noqa: ANN401
    """Convert by tracing, which takes a fifth of an export's time and gives the same numbers; ``None`` where it fails.

    A trace can hold the example's batch size in place of the batch's own; where any size is wanted, another is tried.
    """
    import torch

    try:
        model = openvino.convert_model(torch.jit.trace(network, example, check_trace=False), example_input=example)
        if any_number:
            model.reshape([1, *example.shape[1:]])
            if model.output(0).get_shape()[0] != 1:
                return None
            model.reshape([-1, *example.shape[1:]])
    except RuntimeError:  # an operation without a rule of conversion, or a shape that does not follow the batch
        return None
    return model


def _check_precision(precision: Precision) -> None:
    if precision not in _PRECISIONS:
        raise UsageError(f"precision {precision!r}: this engine supports {', '.join(_PRECISIONS)}")
    if precision == "bf16" and not computes_bf16():
        raise UsageError("this CPU does not support bf16", remedy="Use --precision exact")


class OpenVINOEngine(Engine):
    """Runs a bundle with OpenVINO on the CPU.

    Parameters
    ----------
    bundle
        The model.
    precision
        ``fp32``, ``bf16``, or ``int8`` if the bundle includes an int8 network; layers that are not quantised are then
        computed in bf16 if the CPU supports it, else in fp32.
    threads
        Cores to use; ``None``: all that this process may use.
    features
        Whether to append a classifier's penultimate features to its other outputs; not in int8.
    batch_size
        Patches per request, one thread each.
    graph
        File with an int8 network to use instead of the bundle's own.

    Raises
    ------
    MissingDependencyError
        If OpenVINO is not installed.
    UsageError
        If the CPU does not support the precision.
    """

    name = "openvino"

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        features: bool = False,
        batch_size: int = _BATCH,
        graph: Path | None = None,
    ) -> None:
        if precision == "int8":
            path = graph or bundle.int8()
            if path is None or features:
                raise UsageError(
                    f"{bundle.name} has no network in 8-bit integers" + (" that gives features" if path else ""),
                    remedy="Make one: pathology models quantise",
                )
        else:
            _check_precision(precision)
            path = converted_model(bundle, features=features)
        extras = extra_outputs(bundle.card, features=features)
        outputs = outputs_per_patch(bundle.card) + extras
        self._start(path, bundle.card.patch, outputs, extras, precision, threads, batch_size)

    @classmethod
    def of_graph(
        cls,
        path: Path,
        *,
        patch: int,
        outputs: int,
        precision: Precision = "fp32",
        threads: int | None = None,
        batch_size: int = _BATCH,
    ) -> Self:
        """Run any converted network of patches, such as an encoder; all its outputs count as :attr:`extras`.

        Parameters
        ----------
        path
            From :func:`converted_network`.
        patch, outputs
            Side of a patch in pixels, and numbers per patch.
        precision, threads, batch_size
            As for the class; not ``int8``.
        """
        engine = cls.__new__(cls)
        _check_precision(precision)
        engine._start(path, patch, outputs, outputs, precision, threads, batch_size)
        return engine

    def _start(
        self,
        path: Path,
        patch: int,
        outputs: int,
        extras: int,
        precision: Precision,
        threads: int | None,
        batch_size: int,
    ) -> None:
        core = openvino_library().Core()
        streams = threads or available_cores()
        model = core.read_model(path)
        model.reshape([batch_size, patch, patch, 3])
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision != "fp32" and computes_bf16() else "f32",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": streams,
                "ENABLE_CPU_PINNING": False,  # pinning would place several workers of one machine on the same cores
            },
        )
        # Own threads, each with its own request: OpenVINO's asynchronous queue was observed to wait for ever
        # for the interpreter lock when it was freed.
        self._pool = ThreadPoolExecutor(streams, "openvino")
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._requests.put(self._compiled.create_infer_request())
        # OpenVINO initialises its numpy bindings on first use, behind a lock on which two threads can deadlock:
        # one holds it and waits for the interpreter, the other the other way round.  So the first use is here, alone.
        with _FIRST_USE:
            self._compute(np.zeros((batch_size, patch, patch, 3), np.uint8))
        self.device = "cpu"
        self.precision = precision
        self.batch_size = batch_size
        self.preferred_batch = batch_size * streams * 4
        self.patch = patch
        self.extras = extras
        self.classes = outputs

    def _compute(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        request = self._requests.get()
        try:
            request.infer({0: np.ascontiguousarray(batch)}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)
        finally:
            self._requests.put(request)

    def _predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        result = np.empty((len(patches), self.classes), np.float32)

        def compute(start: int) -> None:
            place = slice(start, start + self.batch_size)
            result[place] = self._compute(patches[place])

        for _ in self._pool.map(compute, range(0, len(patches), self.batch_size)):
            pass
        return result

    def predict_corrected(
        self, patches: NDArray[np.uint8], correct: Callable[[NDArray[np.uint8], NDArray[np.float32]], None]
    ) -> NDArray[np.float32]:
        """Classify patches; see :meth:`Engine.predict_corrected`."""
        self._check(patches)
        results = np.empty((len(patches), self.classes), np.float32)

        def compute(start: int) -> None:
            part = patches[start : start + self.batch_size]
            found = self._compute(self._padded(part))[: len(part)]
            correct(part, found)
            results[start : start + len(part)] = found

        for _ in self._pool.map(compute, range(0, len(patches), self.batch_size)):
            pass
        return results

    def close(self) -> None:
        """Free the compiled model."""
        self._pool.shutdown()
        self._requests = SimpleQueue()
        self.__dict__.pop("_compiled", None)
