"""The torch engine: any registered network, on the processor or on a CUDA device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology.errors import UsageError
from pathology.inference.engine import Engine

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle

__all__ = ["PatchClassifier", "TorchEngine"]

_BATCH = {"cpu": 8, "cuda": 128}
"""On a processor small batches stay in cache and little is padded; a GPU needs many patches to be busy."""


class PatchClassifier(nn.Module):
    """A network with its input normalisation and softmax built in.

    Parameters
    ----------
    network
        Takes normalised ``(B, 3, H, W)`` floats, gives ``(B, C)`` logits.
    mean, std
        Per channel, of values scaled to 0..1.
    temperature
        Logits are divided by it before the softmax (Guo et al. 2017); 1 leaves them as they are.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        deviation = torch.tensor(std).view(1, 3, 1, 1)
        # (v / 255 - mean) / std as one multiplication and one addition.
        self.register_buffer("scale", 1 / (255 * deviation))
        self.register_buffer("shift", -torch.tensor(mean).view(1, 3, 1, 1) / deviation)

    def forward(self, patches: Tensor) -> Tensor:
        """Turn ``(B, H, W, 3)`` uint8 patches into ``(B, C)`` float32 probabilities."""
        # A permuted NHWC tensor is NCHW in channels-last memory: no copy.
        pixels = patches.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
        logits = self.network(pixels)
        return torch.softmax(logits.float() / self.temperature, dim=1)


class TorchEngine(Engine):
    """Runs a bundle with torch in fp32.

    Parameters
    ----------
    bundle
        The model.
    device
        ``cpu``, ``cuda`` or ``cuda:N``; ``None``: CUDA where there is a device, else the processor.
    batch_size
        Patches at once; ``None``: fitting the device.

    Raises
    ------
    UsageError
        If the device does not exist.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, *, device: str | None = None, batch_size: int | None = None) -> None:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise UsageError("no CUDA device is available", remedy="Leave out --device, or see: pathology doctor")
        card = bundle.card
        self.device = str(chosen)
        self.precision = "fp32"
        self.batch_size = batch_size or _BATCH[chosen.type]
        self.patch = card.patch
        self.classes = len(card.classes)
        self._device = chosen
        model = PatchClassifier(
            bundle.network(),
            card.normalisation.mean,
            card.normalisation.std,
            float(card.calibration.get("temperature", 1.0)),
        )
        self._model = model.eval().to(chosen).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _predict_batch(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            # from_numpy shares memory and wants it writable; a read-only view is copied.
            patches = torch.from_numpy(batch if batch.flags.writeable else batch.copy())
            result: NDArray[np.float32] = self._model(patches.to(self._device)).cpu().numpy()
            return result

    def close(self) -> None:
        """Free the network."""
        self.__dict__.pop("_model", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
