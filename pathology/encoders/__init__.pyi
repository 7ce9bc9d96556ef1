from .installed import Encoder, add_encoder, list_encoders, load_encoder
from .specification import EncoderSpecification

__all__ = ["Encoder", "EncoderSpecification", "add_encoder", "list_encoders", "load_encoder"]
