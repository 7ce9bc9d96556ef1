"""Post-training quantisation of a classifier to 8-bit integers, calibrated on patches (NNCF).

The range of every layer's values is measured on the patches, weights and activations become 8-bit integers, and biases
are corrected for the shift this causes.  Three parts are not quantised, since they take little time and leaving them
out makes the differences from fp32 a third smaller: the first convolution, which sees the pixels themselves, the last
fully connected layer with everything after it, and the layers that only the out-of-distribution score uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.extras import require_extras
from pathology.inference.engines.openvino import converted_model, openvino_version, read_graph, save_graph

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle

__all__ = ["quantise_network", "quantiser_version", "require_quantiser"]

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


def require_quantiser() -> None:
    """Fail early if the library is missing.

    Raises
    ------
    MissingDependencyError
        If NNCF is not installed.
    """
    require_extras("quantise", what="quantisation to 8-bit integers")


def quantiser_version() -> str:
    """Return the quantisation tools with their versions."""
    from importlib.metadata import version

    return f"NNCF {version('nncf')}, OpenVINO {openvino_version()}"


def quantise_network(bundle: Bundle, patches: NDArray[np.uint8], path: Path) -> None:
    """Quantise a classifier to 8-bit integers and write it.

    Parameters
    ----------
    bundle
        The classifier.
    patches
        ``(N, P, P, 3)`` uint8 RGB at the model's scale to calibrate on; an incomplete last batch is not used.
    path
        The graph's ``.xml``; its constants are written beside it as ``.bin``.

    Raises
    ------
    UsageError
        If the model is not a classifier.
    MissingDependencyError
        If NNCF is not installed.
    """
    require_quantiser()
    if bundle.card.task != "classification":
        raise UsageError(
            f"{bundle.name} is a detector; only classifiers can be quantised to 8-bit integers",
            remedy="Score with it as it is: whether a box counts is decided in fp32",
        )
    import logging

    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    graph = read_graph(converted_model(bundle), bundle.card.patch)
    size = graph.inputs[0].shape[0]
    batches = [patches[start : start + size] for start in range(0, len(patches) - size + 1, size)]
    if not batches:
        raise UsageError(f"patches: {len(patches)} are too few for calibration")
    quantised = nncf.quantize(
        graph,
        nncf.Dataset(batches),
        subset_size=len(batches),
        # Symmetric for weights and activations: faster than asymmetric activations, and no less accurate.
        preset=nncf.QuantizationPreset.PERFORMANCE,
        target_device=nncf.TargetDevice.CPU,
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=sorted(_kept(graph, bundle)), validate=False),
        # Half-range weights are for CPUs without VNNI, and for the first layer, which is not quantised.
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.DISABLE,
            # The range covers the largest values seen, not the mean of each patch's largest: other slides have
            # other stains, and what exceeds the limits is cut off.
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        ),
    )
    save_graph(quantised, path)


def _kept(graph: Any, bundle: Bundle) -> set[str]:  # noqa: ANN401 - openvino.Model
    """Names of the operations that are not quantised."""
    order = [node.get_friendly_name() for node in graph.get_ordered_ops()]
    weighted = {n.get_friendly_name() for n in graph.get_ordered_ops() if n.get_type_name() in _WEIGHTED}
    result = graph.outputs[0].get_node().input_value(0).get_node()
    rule = bundle.card.trust.out_of_domain if bundle.card.trust is not None else None
    kept: set[str] = {result.get_friendly_name()}
    if rule is None:
        answer = _behind(result)
    else:
        # The concatenated columns: probabilities first, then the score.
        answer = _behind(result.input_value(0).get_node())
        score = _behind(result.input_value(1).get_node())
        # The first layers are kept for the score; of the last ones it uses those that the probabilities use.
        kept |= score if rule.layer == "stem" else score - answer
    of_answer = [name for name in order if name in answer & weighted]
    kept |= {of_answer[0], of_answer[-1]}
    return kept


def _behind(node: Any) -> set[str]:  # noqa: ANN401 - openvino.Node
    """Names of all operations that a result depends on, including its own."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        name = current.get_friendly_name()
        if name not in found:
            found.add(name)
            waiting += [value.get_node() for value in current.input_values()]
    return found
