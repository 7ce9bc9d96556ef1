"""Patch encoders: networks that turn a patch into a vector, by name, from the hub, a file or a bundle.

What is known of each published encoder, its network built without foreign code, and its weights as safetensors.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
