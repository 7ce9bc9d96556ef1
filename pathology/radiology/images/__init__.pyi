from .intensity import IntensitySettings, normalise
from .registration import Registration, RegistrationSettings, register, resample
from .shells import peritumoural_shell

__all__ = [
    "IntensitySettings",
    "Registration",
    "RegistrationSettings",
    "normalise",
    "peritumoural_shell",
    "register",
    "resample",
]
