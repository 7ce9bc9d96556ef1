"""A user id without a name, such as a container's that runs with ``--user 54321``."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["name_nameless_user"]

_NAMES: Final = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where ``getpass.getuser`` looks before it asks the system's list of users."""


def name_nameless_user() -> None:
    """Give a user id without a name one for this process and those it starts.

    Libraries name temporary folders after the user: importing torchvision ends in a ``KeyError`` of ``getpwuid`` where
    the id has no entry and no variable gives a name.
    """
    if os.name != "posix" or any(os.environ.get(name) for name in _NAMES):
        return
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
