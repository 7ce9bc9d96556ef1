"""The bundle files with the network for OpenVINO, which run without torch.  The only file that imports OpenVINO.

``network.xml`` is the graph as converted from torch, before any optimisation; its constants are then the weights
themselves, so ``network.json`` only says which tensor of the weights stands where, and holds the few small constants
that are in no other file.  It also records what torch computed for fixed patches.  OpenVINO runs only its own
operations: a graph contains no code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pathology.atomic_files import write_text
from pathology.bundle.card import NetworkGraph
from pathology.bundle.domain import read_domain
from pathology.bundle.weights import check_weights, file_sha256, read_arrays, weights_path
from pathology.errors import BundleError, MissingDependencyError

if TYPE_CHECKING:
    from pathology.bundle.card import Card

__all__ = [
    "GRAPH_NAMES",
    "check_graph",
    "check_patches",
    "converted_trace",
    "graph_agreement",
    "graph_fits",
    "graph_path",
    "openvino_library",
    "read_network",
    "write_graph",
]

GRAPH_NAMES: Final = ("network.xml", "network.json")
"""The graph, and what stands where in its constants."""

LARGEST_MEAN_DIFFERENCE: Final = 1e-5
"""Between OpenVINO and torch in fp32, over the probabilities of all patches compared."""
_LARGEST_SCORE_DIFFERENCE: Final = 1e-3
"""Of the out-of-distribution score, relative."""
_SMALLEST_SHARED: Final = 64
"""Bytes from which a constant is looked for among the weights."""
_CONSTANT: Final = re.compile(r'type="Const"[^>]*>\s*<data [^>]*?offset="(\d+)" size="(\d+)"')
_AGAIN: Final = "Copy the complete bundle again, or make the graph again: pathology models convert"


def openvino_library() -> Any:  # noqa: ANN401 - the module
    """Return the module ``openvino``.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            "the OpenVINO engine is not installed",
            remedy="Reinstall with: pip install sarcoma-pathology, or use --engine torch",
        ) from error
    return openvino


@dataclass(frozen=True)
class Agreement:
    """How near two engines' outputs are.

    Attributes
    ----------
    mean_difference : float
        Mean absolute difference of the probabilities; for a detector, of confidences and of coordinates, in patches.
    same_class : bool
        Whether every patch has the same most probable class; of a detector always.
    score_difference : float
        Largest relative difference of the out-of-distribution score; 0 without one.
    """

    mean_difference: float
    same_class: bool
    score_difference: float

    @property
    def holds(self) -> bool:
        """Whether the graph may be used."""
        near = self.mean_difference <= LARGEST_MEAN_DIFFERENCE and self.score_difference <= _LARGEST_SCORE_DIFFERENCE
        return near and self.same_class

    def __str__(self) -> str:
        return (
            f"mean difference {self.mean_difference:.1e}, {'same' if self.same_class else 'another'} class, "
            f"out-of-distribution score within {self.score_difference:.1e}"
        )


def graph_agreement(card: Card, found: NDArray[np.float32], expected: NDArray[np.float32]) -> Agreement:
    """Compare outputs of OpenVINO with torch's.

    Parameters
    ----------
    card
        The model's.
    found, expected
        ``(N, K)`` outputs of the same patches: class probabilities, or the boxes of a detector, and the
        out-of-distribution score if there is one.
    """
    scored = card.trust is not None and card.trust.out_of_domain is not None
    a, b = (np.asarray(values, np.float64) for values in (found, expected))
    if a.shape != b.shape or not np.isfinite(a).all():
        return Agreement(float("inf"), False, float("inf"))
    apart = np.abs(a[:, -1] - b[:, -1]) / np.maximum(np.abs(b[:, -1]), 1e-6) if scored else np.zeros(1)
    a, b = (values[:, :-1] if scored else values for values in (a, b))
    if card.task == "classification":
        return Agreement(float(np.abs(a - b).mean()), bool((a.argmax(1) == b.argmax(1)).all()), float(apart.max()))
    scale = np.array([card.patch] * 4 + [1.0])
    return Agreement(float(np.abs((a - b).reshape(len(a), -1, 5) / scale).mean()), True, float(apart.max()))


def check_patches(patch: int) -> NDArray[np.uint8]:
    """Return the patches on which every graph is compared with torch: glass, white, noise, and dark spots on pink.

    Computed in integers, so that they are the same on every machine.

    Parameters
    ----------
    patch
        Side in pixels.

    Returns
    -------
    numpy.ndarray
        ``(4, P, P, 3)`` uint8.

    Examples
    --------
    >>> check_patches(64).mean(axis=(1, 2, 3)).round()
    array([240., 255., 128., 199.])
    """
    y, x, channel = np.meshgrid(
        *(np.arange(n, dtype=np.uint32) for n in (patch, patch, 3)), indexing="ij", sparse=False
    )
    noise = ((x * 2654435761 + y * 2246822519 + channel * 3266489917) ^ (x * y * 668265263)) >> 13 & 255
    pink = np.array([222, 160, 200], np.uint32)[channel] + (noise & 15)
    # Spots of growing size, on a lattice.
    step = 52
    row, column = (y % step).astype(np.int64) - step // 2, (x % step).astype(np.int64) - step // 2
    radius = 6 + 2 * ((x // step + y // step * 3) % 8).astype(np.int64)
    dark = row * row * 2 + column * column < radius * radius
    spots = np.where(dark, np.array([70, 40, 110], np.uint32)[channel] + (noise & 31), pink)
    pictures = [np.full_like(noise, 240), np.full_like(noise, 255), noise, spots]
    return np.stack(pictures).astype(np.uint8)


def graph_fits(card: Card) -> bool:
    """Whether the card has a graph, made for what the card says of the model now."""
    return card.graph is not None and card.graph.identity == _identity(card)


def _identity(card: Card) -> str:
    """Return the hash of all on the card that determines a graph's outputs."""
    rule = card.trust.out_of_domain if card.trust is not None else None
    parts = {
        "weights": card.weights_sha256,
        "network": [card.architecture, card.architecture_options, len(card.classes)],
        "detection": card.detection.floor if card.detection is not None else None,
        "input": [card.patch, card.normalisation.model_dump(mode="json"), card.calibration],
        "domain": None if rule is None else [rule.sha256, rule.layer, rule.cell],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def graph_path(directory: Path, graph: NetworkGraph) -> Path:
    """Return the graph's file after comparing both files with the card.

    Raises
    ------
    WeightsHashError
        If a file's hash differs from the card's.
    BundleError
        If one is missing.
    """
    for name, sha256 in zip(GRAPH_NAMES, (graph.graph_sha256, graph.constants_sha256), strict=True):
        if not (directory / name).is_file():
            raise BundleError(f"the bundle has no {name}", where=directory, remedy=_AGAIN)
        check_weights(directory / name, sha256)
    return directory / GRAPH_NAMES[0]


def read_network(directory: Path, card: Card) -> Any:  # noqa: ANN401 - openvino.Model
    """Build the network from its graph and the weights, optimised as a conversion from torch would be.

    Parameters
    ----------
    directory
        The bundle's folder.
    card
        Its card, with a graph.

    Returns
    -------
    openvino.Model
        ``(B, P, P, 3)`` uint8 to the outputs of :func:`pathology.inference.engines.torch.patch_classifier`.

    Raises
    ------
    WeightsHashError
        If a file's hash differs from the card's.
    BundleError
        If a file is missing, or they do not fit each other.
    """
    assert card.graph is not None
    path = graph_path(directory, card.graph)
    return _network(path.read_bytes(), _constants(directory, card, _read_about(directory)))


def check_graph(directory: Path, card: Card) -> Agreement:
    """Run the graph on :func:`check_patches` and compare it with what torch computed when the graph was made.

    Raises
    ------
    WeightsHashError
        If a file's hash differs from the card's.
    BundleError
        If the graph was made for something else than the card says, a file is missing, or they do not agree.
    """
    assert card.graph is not None
    if not graph_fits(card):
        raise BundleError("the graph was made for another card or other weights", where=directory, remedy=_AGAIN)
    model = read_network(directory, card)
    expected = _array(_read_about(directory).get("outputs"), np.float32, directory)
    found = _outputs(model, check_patches(card.patch))
    if expected.size != found.size:
        raise BundleError("the graph has other outputs than torch", where=directory, remedy=_AGAIN)
    agreement = graph_agreement(card, found, expected.reshape(found.shape))
    if not agreement.holds:
        raise BundleError(f"the graph does not agree with torch: {agreement}", where=directory, remedy=_AGAIN)
    if card.detection is not None and float(found[:2, 4 : 5 * (found.shape[1] // 5) : 5].max()) >= (
        card.detection.threshold
    ):
        raise BundleError("the graph has a counted detection on empty glass", where=directory, remedy=_AGAIN)
    return agreement


def converted_trace(traced: Any, example: Any) -> Any:  # noqa: ANN401 - torch's, and openvino.Model
    """Convert a traced network as it is: no constant is folded, so each is one of the network's tensors."""
    openvino = openvino_library()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and OpenVINO, about their own internals
        manager = FrontEndManager()  # the frontend does not keep its manager, nor the model its decoder
        frontend = manager.load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
        model = frontend.load(decoder)
        place = model.get_place_by_input_index(0)
        model.set_partial_shape(place, openvino.PartialShape([-1] * 4))
        model.set_element_type(place, openvino.Type.u8)
        return frontend.convert(model)


def write_graph(model: Any, expected: NDArray[np.float32], directory: Path, card: Card) -> NetworkGraph:  # noqa: ANN401
    """Write the graph of a network beside its weights, if it agrees with torch.

    Parameters
    ----------
    model
        From :func:`converted_trace`.
    expected
        What torch computes for :func:`check_patches`, in fp32.
    directory
        The bundle's folder; has the weights.
    card
        Its card.

    Returns
    -------
    NetworkGraph
        For the card.

    Raises
    ------
    BundleError
        If the graph does not agree with torch; nothing is written then.
    OutputError
        If a file cannot be written.
    """
    openvino = openvino_library()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / GRAPH_NAMES[0]
        openvino.serialize(model, path)
        graph, constants = path.read_text(encoding="utf-8"), path.with_suffix(".bin").read_bytes()
    about = {
        "format": 1,
        "parts": list(_parts(graph, constants, directory, card)),
        "outputs": base64.b64encode(np.ascontiguousarray(expected, np.float32).tobytes()).decode(),
    }
    rebuilt = _network(graph.encode(), _constants(directory, card, about))
    patches = check_patches(card.patch)
    agreement = graph_agreement(card, _outputs(rebuilt, patches), expected)
    if not agreement.holds:
        raise BundleError(f"the network in OpenVINO does not agree with torch: {agreement}", where=directory)
    write_text(directory / GRAPH_NAMES[0], graph)
    write_text(directory / GRAPH_NAMES[1], json.dumps(about, separators=(",", ":")) + "\n")
    return NetworkGraph(
        graph_sha256=file_sha256(directory / GRAPH_NAMES[0]),
        constants_sha256=file_sha256(directory / GRAPH_NAMES[1]),
        identity=_identity(card),
        made_by=f"OpenVINO {openvino.__version__}",
        mean_difference=agreement.mean_difference,
    )


def _parts(graph: str, constants: bytes, directory: Path, card: Card) -> Iterator[list[Any]]:
    """Yield offset, size, source and name of every constant; a small one holds its bytes in the place of a name."""
    known = {array.tobytes(): [source, name] for source, name, array in _tensors(directory, card)}
    for offset, size in sorted({(int(o), int(n)) for o, n in _CONSTANT.findall(graph)}):
        content = constants[offset : offset + size]
        shared = known.get(content) if size >= _SMALLEST_SHARED else None
        yield [offset, size, *(shared or ["here", base64.b64encode(content).decode()])]


def _tensors(directory: Path, card: Card) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Yield the arrays of the bundle that a graph can hold; half precision widened, as torch does."""
    path = weights_path(directory)
    check_weights(path, card.weights_sha256)
    for name, array in read_arrays(path).items():
        yield "weights", name, array.astype(np.float32) if array.dtype == np.float16 else array
    if card.trust is not None and card.trust.out_of_domain is not None:
        yield "domain", "whitening", read_domain(directory, card.trust.out_of_domain).whitening


def _constants(directory: Path, card: Card, about: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the graph's constants in their order, from the weights and the small ones that are in no other file."""
    known = {(source, name): array for source, name, array in _tensors(directory, card)}
    pieces: list[tuple[int, NDArray[np.uint8]]] = []
    try:
        for offset, size, source, name in about["parts"]:
            content = (
                _array(name, np.uint8, directory)
                if source == "here"
                else np.ascontiguousarray(known[source, name]).reshape(-1).view(np.uint8)
            )
            if len(content) != size:
                raise ValueError(f"{name[:80]} has {len(content)} bytes, the graph wants {size}")
            pieces.append((int(offset), content))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"the graph's constants do not fit the weights ({error})", where=directory, remedy=_AGAIN
        ) from error
    total = 0
    for offset, content in pieces:
        if offset != total:
            raise BundleError("the graph's constants have a gap", where=directory, remedy=_AGAIN)
        total += len(content)
    return np.concatenate([content for _, content in pieces]) if pieces else np.empty(0, np.uint8)


def _network(graph: bytes, constants: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - openvino.Model
    openvino = openvino_library()
    from openvino._offline_transformations import apply_moc_transformations, compress_quantize_weights_transformation

    try:
        model = openvino.Core().read_model(graph, openvino.Tensor(constants))
        # What openvino.convert_model does with a network of torch.
        apply_moc_transformations(model, cf=False, smart_reshape=True)
        compress_quantize_weights_transformation(model)
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1]
        raise BundleError(f"OpenVINO cannot read the graph ({said})", remedy="Install a newer OpenVINO") from error
    return model


def _outputs(model: Any, patches: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: ANN401 - openvino.Model
    # All at once: a trace of a detector holds the batch size of its example, which is that of check_patches.
    fixed = model.clone()
    fixed.reshape(list(patches.shape))
    compiled = openvino_library().Core().compile_model(fixed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(patches)[0], np.float32)


def _read_about(directory: Path) -> dict[str, Any]:
    path = directory / GRAPH_NAMES[1]
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] == 1:
            return dict(about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the file cannot be read ({error})", where=path, remedy=_AGAIN) from error
    raise BundleError("the file was made by a newer version", where=path, remedy="Update the program")


def _array(text: Any, kind: type[np.generic], where: Path) -> NDArray[Any]:  # noqa: ANN401 - of a JSON file
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), kind)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{GRAPH_NAMES[1]} is damaged ({error})", where=where, remedy=_AGAIN) from error
