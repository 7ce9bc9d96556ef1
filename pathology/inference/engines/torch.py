"""The torch engine: any registered network, on the CPU or on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology.errors import UnusableDeviceError, UsageError
from pathology.inference.engines.base import Engine, Precision, available_cores, extra_outputs, outputs_per_patch
from pathology.inference.engines.domain_distance import DomainDistance

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle
    from pathology.stats.out_of_distribution import FeatureDomain

__all__ = ["PatchClassifier", "TorchEngine", "has_bf16", "patch_classifier", "torch_device"]

_BATCH = {"cpu": 8, "cuda": 128}
"""On a CPU, small batches stay in cache and need little padding; a GPU needs many patches to be fully used."""


def torch_device(device: str | None) -> torch.device:
    """Return a device that exists: the given one, else CUDA if there is any, else the CPU.

    Raises
    ------
    UnusableDeviceError
        If it does not exist.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in _BATCH:
        raise UnusableDeviceError(f"device {device!r} does not exist", remedy="Choose cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UnusableDeviceError("no CUDA device is available", remedy="Omit --device, or run 'pathology doctor'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UnusableDeviceError(
            f"device {device!r} does not exist; there {'is' if count == 1 else 'are'} {count}",
            remedy=f"Choose cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}, or omit --device",
        )
    return chosen


class PatchClassifier(nn.Module):
    """A network with its input normalisation and softmax built in.

    Parameters
    ----------
    network
        Takes normalised ``(B, 3, H, W)`` floats, returns ``(B, C)`` logits.
    mean, std
        Per channel, for values scaled to 0..1.
    temperature
        Logits are divided by it before the softmax (Guo et al. 2017); 1 leaves them unchanged.
    domain
        Distribution of the training patches' features; if given, a column with each patch's out-of-distribution score
        follows the probabilities.
    stem
        Whether the score uses the network's first layers instead of its last.
    features
        Whether to append the penultimate features as further columns.
    """

    scale: Tensor
    shift: Tensor
    head: nn.Module

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        temperature: float = 1.0,
        *,
        domain: FeatureDomain | None = None,
        stem: bool = False,
        features: bool = False,
    ) -> None:
        super().__init__()
        self.stem = None
        if stem:
            from pathology.networks.stem import split_stem

            self.stem, network = split_stem(network)
        if (domain is not None and not stem) or features:
            from pathology.networks.penultimate import split_classifier

            self.network, self.head = split_classifier(network)
        else:
            self.network, self.head = network, nn.Identity()
        self.distance = None if domain is None else DomainDistance(domain)
        self.features = features
        self.temperature = temperature
        deviation = torch.tensor(std).view(1, 3, 1, 1)
        # (v / 255 - mean) / std as one multiplication and one addition.
        self.register_buffer("scale", 1 / (255 * deviation))
        self.register_buffer("shift", -torch.tensor(mean).view(1, 3, 1, 1) / deviation)

    def forward(self, patches: Tensor) -> Tensor:
        """Turn ``(B, H, W, 3)`` uint8 patches into ``(B, C)`` float32 probabilities and any extra columns."""
        # A permuted NHWC tensor is NCHW in channels-last memory: no copy.
        pixels = patches.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
        seen = pixels if self.stem is None else self.stem.layers(pixels)
        found = self.network(seen)
        columns = [torch.softmax(self.head(found).float() / self.temperature, dim=1)]
        if self.distance is not None:
            columns.append(self.distance(found.float() if self.stem is None else self.stem.describe(seen)))
        if self.features:
            columns.append(found.float())
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)


def patch_classifier(bundle: Bundle, *, features: bool = False) -> nn.Module:
    """Return a bundle's network with its pre- and postprocessing, in fp32 on the CPU.

    For a classifier: normalisation, temperature and softmax, and the out-of-distribution score if its card defines
    one.  For a detector: normalisation, the selection of boxes and, likewise, the score
    (:class:`pathology.inference.engines.detector.PatchDetector`).

    Parameters
    ----------
    bundle
        The model.
    features
        Whether to append a classifier's penultimate features to its other outputs.
    """
    card = bundle.card
    rule = card.trust.out_of_domain if card.trust is not None else None
    if card.detection is not None:
        from pathology.inference.engines.detector import CellDistance, DetectorNetwork, PatchDetector

        detector = bundle.network()
        assert isinstance(detector, DetectorNetwork)
        platt = (float(card.calibration.get("slope", 1.0)), float(card.calibration.get("intercept", 0.0)))
        mean, std = card.normalisation.mean, card.normalisation.std
        domain, side = bundle.domain(), rule.cell if rule is not None else None
        distance = None if domain is None else CellDistance(domain, card.patch // (side or card.patch))
        return PatchDetector(detector, mean, std, card.detection.floor, platt, distance)
    temperature = float(card.calibration.get("temperature", 1.0))
    return PatchClassifier(
        bundle.network(),
        card.normalisation.mean,
        card.normalisation.std,
        temperature,
        domain=bundle.domain(),
        stem=rule is not None and rule.layer == "stem",
        features=features,
    )


def has_bf16() -> bool:
    """Whether the CPU supports bf16 natively; otherwise bf16 is slower than fp32."""
    return bool(torch.backends.mkldnn.is_available()) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class TorchEngine(Engine):
    """Runs a bundle with torch.

    On a CUDA device the whole network is one CUDA graph, and patches are copied to the device from page-locked
    memory while the previous batch is computed.

    Parameters
    ----------
    bundle
        The model.
    device
        ``cpu``, ``cuda`` or ``cuda:N``; ``None``: CUDA if available, else the CPU.
    precision
        ``fp32`` or ``bf16``; on CUDA also ``fp16``.  ``fp32`` on CUDA is true fp32, without TF32.
    batch_size
        Patches per batch; ``None``: suited to the device.
    threads
        CPU cores to use; ``None``: all that this process may use.
    features
        Whether to append a classifier's penultimate features to its other outputs.

    Raises
    ------
    UsageError
        If the device does not exist or does not support the precision.
    """

    name = "torch"

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: Precision = "fp32",
        batch_size: int | None = None,
        threads: int | None = None,
        features: bool = False,
    ) -> None:
        extras = extra_outputs(bundle.card, features=features)
        self._start(
            lambda: patch_classifier(bundle, features=features),
            bundle.card.patch,
            outputs_per_patch(bundle.card) + extras,
            extras,
            device,
            precision,
            batch_size,
            threads,
        )

    @classmethod
    def of_network(
        cls,
        network: Callable[[], nn.Module],
        *,
        patch: int,
        outputs: int,
        device: str | None = None,
        precision: Precision = "fp32",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> Self:
        """Run any network of patches, such as an encoder; all its outputs count as :attr:`extras`.

        Parameters
        ----------
        network
            Builds a network that takes ``(B, patch, patch, 3)`` uint8 and gives ``(B, outputs)``.
        patch, outputs
            Side of a patch in pixels, and numbers per patch.
        device, precision, batch_size, threads
            As for the class.
        """
        engine = cls.__new__(cls)
        engine._start(network, patch, outputs, outputs, device, precision, batch_size, threads)
        return engine

    def _start(
        self,
        network: Callable[[], nn.Module],
        patch: int,
        outputs: int,
        extras: int,
        device: str | None,
        precision: Precision,
        batch_size: int | None,
        threads: int | None,
    ) -> None:
        chosen = torch_device(device)
        if precision not in ("fp32", "bf16") and not (precision == "fp16" and chosen.type == "cuda"):
            raise UsageError(f"torch does not support {precision} on {chosen.type}")
        self.device = str(chosen)
        self.precision = precision
        self.batch_size = batch_size or _BATCH[chosen.type]
        cores = threads or available_cores()
        self.preferred_batch = self.batch_size * (cores * 2 if chosen.type == "cpu" else 8)
        self.patch = patch
        self.extras = extras
        self.classes = outputs
        # Mixed precision: convolutions in few bits, batch normalisation and softmax in fp32.  Casting the whole
        # network instead was measured at 10 times the difference from fp32.
        low = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        model: nn.Module = _Mixed(network(), chosen.type, low).eval().to(chosen)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (self.batch_size, self.patch, self.patch, 3)
        self._run: _OnProcessor | _OnCuda
        self._run = _OnCuda(model, chosen, shape) if chosen.type == "cuda" else _OnProcessor(model, cores)

    def _predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        result = np.empty((len(patches), self.classes), np.float32)
        batches = [slice(start, start + self.batch_size) for start in range(0, len(patches), self.batch_size)]
        with torch.inference_mode():
            self._run(patches, result, batches)
        return result

    def close(self) -> None:
        """Free the network and the device's memory."""
        if "_run" in self.__dict__:
            self._run.close()
            del self._run
            if self.device != "cpu":
                torch.cuda.empty_cache()


class _Mixed(nn.Module):
    """A network under autocast; without a low precision, as it is."""

    def __init__(self, network: nn.Module, device: str, low: torch.dtype | None) -> None:
        super().__init__()
        self.network = network
        self._device = device
        self._low = low

    def forward(self, patches: Tensor) -> Tensor:
        # Without its cache of cast weights autocast can be captured into a CUDA graph.
        with torch.autocast(self._device, self._low, enabled=self._low is not None, cache_enabled=False):
            result: Tensor = self.network(patches)
        return result


class _OnProcessor:
    """Batches side by side, each computed by one thread: the sums inside a layer are then added up in the same
    order whatever the number of cores, and small layers do not wait for each other's threads.
    """

    def __init__(self, model: nn.Module, threads: int) -> None:
        self._model = model
        self._pool = ThreadPoolExecutor(threads, "torch", initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, patches: NDArray[np.uint8], result: NDArray[np.float32], batches: list[slice]) -> None:
        def compute(place: slice) -> None:
            batch = patches[place]
            # from_numpy shares memory and wants it writable; a read-only view is copied.
            shared = torch.from_numpy(batch if batch.flags.writeable else batch.copy())
            with torch.inference_mode():
                result[place] = self._model(shared).numpy()

        for _ in self._pool.map(compute, batches):
            pass

    def close(self) -> None:
        self._pool.shutdown()


class _OnCuda:
    """Two page-locked buffers and two captured graphs, taken in turn: one computes while the other is filled."""

    _TURNS = 2

    def __init__(self, model: nn.Module, device: torch.device, shape: tuple[int, int, int, int]) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copies = torch.cuda.Stream(device)
        self._turns = []
        # True fp32 where fp32 is asked for: TF32 keeps 10 bits of the mantissa only.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        with torch.inference_mode(), torch.cuda.device(device):
            for _ in range(self._TURNS):
                there = torch.zeros(shape, dtype=torch.uint8, device=device)
                here = torch.zeros(shape, dtype=torch.uint8).pin_memory()
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    for _ in range(3):  # cuDNN chooses its algorithms before the capture
                        model(there)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self._stream):
                    out = model(there)
                back = torch.empty(out.shape, dtype=out.dtype).pin_memory()
                self._turns.append((here, there, graph, out, back, torch.cuda.Event(), torch.cuda.Event()))

    def __call__(self, patches: NDArray[np.uint8], result: NDArray[np.float32], batches: list[slice]) -> None:
        pending: list[tuple[slice, int]] = []
        with torch.cuda.device(self._device):
            for number, place in enumerate(batches):
                turn = number % self._TURNS
                if len(pending) == self._TURNS:
                    self._collect(*pending.pop(0), result)
                here, there, graph, out, back, copied, done = self._turns[turn]
                np.copyto(here.numpy(), patches[place])
                with torch.cuda.stream(self._copies):
                    there.copy_(here, non_blocking=True)
                    copied.record(self._copies)
                with torch.cuda.stream(self._stream):
                    self._stream.wait_event(copied)
                    graph.replay()
                    back.copy_(out, non_blocking=True)
                    done.record(self._stream)
                pending.append((place, turn))
            for place, turn in pending:
                self._collect(place, turn, result)

    def close(self) -> None:
        self._turns.clear()

    def _collect(self, place: slice, turn: int, result: NDArray[np.float32]) -> None:
        back, done = self._turns[turn][4], self._turns[turn][6]
        done.synchronize()
        result[place] = back.numpy()
