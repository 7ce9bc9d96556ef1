from .radiomics import FeatureSettings, extract_features
from .signature import Signature, SignatureSettings, fit_signature

__all__ = ["FeatureSettings", "Signature", "SignatureSettings", "extract_features", "fit_signature"]
