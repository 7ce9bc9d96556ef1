"""TLS between scheduler, workers and client: whoever has no certificate of this run gets no connection."""

from __future__ import annotations

import os
from pathlib import Path

from distributed.security import Security

from pathology.errors import UsageError

__all__ = ["certificate_files", "fresh_certificates", "own_certificates", "write_certificates"]


def fresh_certificates() -> Security:
    """Return certificates made for this run alone; they are in memory only."""
    security: Security = Security.temporary()
    return security


def certificate_files(security: Security, folder: Path) -> Security:
    """Write fresh certificates, readable by the user only, and return the same by the names of their files.

    Parameters
    ----------
    security
        Of :func:`fresh_certificates`.
    folder
        A folder of mode 0700 that all machines of the run can read.
    """
    authority, certificate, key = write_certificates(security, folder)[1::2]
    roles = ("scheduler", "worker", "client")
    return Security(
        tls_ca_file=authority,
        **{f"tls_{role}_cert": certificate for role in roles},
        **{f"tls_{role}_key": key for role in roles},
        require_encryption=True,
    )


def own_certificates(authority: Path, certificate: Path, key: Path) -> Security:
    """Return the user's certificates, for a scheduler that somebody else started.

    Parameters
    ----------
    authority, certificate, key
        PEM files: the certificate authority, the client's certificate, and its private key.

    Raises
    ------
    UsageError
        If a file is missing.
    """
    for path in (authority, certificate, key):
        if not path.is_file():
            raise UsageError("no such certificate or key file", where=path, remedy="Give --tls CA CERTIFICATE KEY")
    return Security(
        tls_ca_file=str(authority),
        tls_client_cert=str(certificate),
        tls_client_key=str(key),
        require_encryption=True,
    )


def write_certificates(security: Security, folder: Path) -> list[str]:
    """Write a worker's certificates, readable by the user only, and return the worker's options.

    Parameters
    ----------
    security
        Of :func:`fresh_certificates`.
    folder
        A folder of mode 0700.
    """
    options = []
    for name, content in security.get_tls_config_for_role("worker").items():
        if name not in ("ca_file", "cert", "key") or content is None:
            continue
        path = folder / f"{name}.pem"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(content)
        options += [f"--tls-{name.replace('_', '-')}", str(path)]
    return options
