"""The bundle file with the feature distribution of the training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pathology.bundle.weights import check_weights, file_sha256, read_arrays
from pathology.errors import BundleError, OutputError

if TYPE_CHECKING:
    from pathology.stats.out_of_distribution import FeatureDomain, OutOfDomainRule

__all__ = ["DOMAIN_NAME", "read_domain", "write_domain"]

DOMAIN_NAME: Final = "domain.safetensors"


def write_domain(domain: FeatureDomain, directory: Path) -> str:
    """Write class means and whitening, atomically.

    Parameters
    ----------
    domain
        As fitted.
    directory
        The bundle's folder.

    Returns
    -------
    str
        SHA-256 of the file, for the card.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from safetensors.numpy import save_file

    path = directory / DOMAIN_NAME
    partial = path.with_name(f"{path.name}.partial")
    try:
        save_file({"centres": domain.centres, "whitening": domain.whitening}, partial)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"the domain cannot be written ({error.strerror or error})", where=path) from error
    return file_sha256(path)


def read_domain(directory: Path, rule: OutOfDomainRule) -> FeatureDomain:
    """Read what :func:`write_domain` wrote.

    Parameters
    ----------
    directory
        The bundle's folder.
    rule
        Of its card.

    Raises
    ------
    WeightsHashError
        If the file's hash differs from the card's.
    BundleError
        If it is missing or its arrays do not fit the card.
    """
    from pathology.stats.out_of_distribution import FeatureDomain

    path = directory / DOMAIN_NAME
    if not path.is_file():
        raise BundleError(f"the bundle has no {DOMAIN_NAME}", where=directory, remedy="Copy the complete bundle again")
    check_weights(path, rule.sha256)
    arrays = read_arrays(path)
    if set(arrays) != {"centres", "whitening"} or arrays["whitening"].shape != (rule.features,) * 2:
        raise BundleError(f"the arrays do not fit {rule.features} features", where=path)
    return FeatureDomain(arrays["centres"], arrays["whitening"])
