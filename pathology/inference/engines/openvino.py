"""The OpenVINO engine: the fastest engine on a CPU.

A bundle may include an int8 version of its network (:mod:`pathology.inference.engines.quantise`).  Every model is
converted once and cached, by the hash of its weights, in the user's cache folder; a worker then needs no torch.  Every
stream computes a request with one thread, so results do not depend on the number of cores.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology.errors import MissingDependencyError, OutputError, UsageError
from pathology.inference.engines.base import Engine, Precision, available_cores, extra_outputs, outputs_per_patch
from pathology.settings import cache_folder

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle

__all__ = ["OpenVINOEngine", "computes_bf16", "converted_model", "openvino_version", "read_graph", "save_graph"]

_BATCH = 4
"""Patches per request.  Measured from 1 to 8: equal within a few per cent, and larger batches need more padding."""

_FIRST_USE = Lock()

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def _openvino() -> Any:  # noqa: ANN401 - the module
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            "the OpenVINO engine is not installed",
            remedy="Install it with: pip install 'sarcoma-pathology[openvino]', or use --engine torch",
        ) from error
    return openvino


def computes_bf16() -> bool:
    """Whether the CPU supports bf16 natively."""
    return "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_version() -> str:
    """Return the installed version of OpenVINO."""
    return str(_openvino().__version__)


def read_graph(path: Path, patch: int) -> Any:  # noqa: ANN401 - openvino.Model
    """Read a graph from its ``.xml`` and set the batch size of this engine's requests.

    Parameters
    ----------
    path
        As returned by :func:`converted_model`.
    patch
        Side of a patch in pixels.
    """
    model = _openvino().Core().read_model(path)
    model.reshape([_BATCH, patch, patch, 3])
    return model


def save_graph(model: Any, path: Path) -> None:  # noqa: ANN401 - openvino.Model
    """Write a graph as ``.xml``, with its constants in a ``.bin`` file beside it."""
    _openvino().save_model(model, path, compress_to_fp16=False)


def converted_model(bundle: Bundle, *, features: bool = False) -> Path:
    """Return the path of the model in OpenVINO's format (``.xml`` and ``.bin``), converting it on first use.

    Its input is ``(B, P, P, 3)`` uint8 and its output ``(B, C)`` probabilities: it includes normalisation, temperature
    and softmax.  The out-of-distribution score, and features if requested, follow as further columns.

    Raises
    ------
    MissingDependencyError
        If OpenVINO is not installed.
    OutputError
        If the cache folder cannot be written.
    """
    openvino = _openvino()
    card = bundle.card
    parts = {
        "format": 2,
        "weights": card.weights_sha256,
        "network": [card.architecture, card.architecture_options, len(card.classes)],
        "detection": card.detection.model_dump(mode="json") if card.detection is not None else None,
        "input": [card.patch, card.normalisation.model_dump(mode="json"), card.calibration],
        "openvino": openvino.__version__,
    }
    if extra_outputs(card, features=features):
        rule = card.trust.out_of_domain if card.trust is not None else None
        parts["extras"] = [None if rule is None else rule.sha256, features]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / "openvino" / f"{card.architecture}-{key}"
    model = folder / "model.xml"
    if not model.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                aside = Path(scratch) / "model"
                aside.mkdir()
                _convert(bundle, aside / "model.xml", openvino, features)
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


def _convert(bundle: Bundle, path: Path, openvino: Any, features: bool) -> None:  # noqa: ANN401 - the module
    import torch

    from pathology.inference.engines.torch import patch_classifier

    example = torch.zeros((_BATCH, bundle.card.patch, bundle.card.patch, 3), dtype=torch.uint8)
    # A classifier runs at more than one batch size, so the export must not fix this one in its reshapes.
    any_number = ({0: torch.export.Dim("patches", min=1, max=1024)},) if bundle.card.task == "classification" else None
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about its own internals
        network = patch_classifier(bundle, features=features).eval()
        if bundle.card.task == "detection":
            network(example)  # some detectors cache what their first call computes, which an export would miss
        program = torch.export.export(network, (example,), dynamic_shapes=any_number)
        model = openvino.convert_model(program)
    openvino.save_model(model, path, compress_to_fp16=False)


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
        openvino = _openvino()
        if precision not in _PRECISIONS:
            raise UsageError(f"precision {precision!r}: this engine supports {', '.join(_PRECISIONS)}")
        core = openvino.Core()
        if precision == "bf16" and not computes_bf16():
            raise UsageError("this CPU does not support bf16", remedy="Use --precision exact")
        streams = threads or available_cores()
        if precision == "int8":
            path = graph or bundle.int8()
            if path is None or features:
                raise UsageError(
                    f"{bundle.name} has no network in 8-bit integers" + (" that gives features" if path else ""),
                    remedy="Make one: pathology models quantise",
                )
        else:
            path = converted_model(bundle, features=features)
        model = core.read_model(path)
        model.reshape([batch_size, bundle.card.patch, bundle.card.patch, 3])
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
            self._compute(np.zeros((batch_size, bundle.card.patch, bundle.card.patch, 3), np.uint8))
        self.device = "cpu"
        self.precision = precision
        self.batch_size = batch_size
        self.preferred_batch = batch_size * streams * 4
        self.patch = bundle.card.patch
        self.extras = extra_outputs(bundle.card, features=features)
        self.classes = outputs_per_patch(bundle.card) + self.extras

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
