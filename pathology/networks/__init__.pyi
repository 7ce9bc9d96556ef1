from .radiology_registry import build_radiology_network, radiology_architectures
from .registry import architectures, build_network

__all__ = ["architectures", "build_network", "build_radiology_network", "radiology_architectures"]
