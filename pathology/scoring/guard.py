"""Conversion of exceptions in a worker to readable reasons."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from pathology.errors import BundleError, MissingDependencyError, OutputError, PathologyError, UnusableDeviceError
from pathology.extras import extra_of, missing_extra
from pathology.inference.workers.schedule import Failure, Halt
from pathology.memory import reuse_freed_memory
from pathology.path_text import path_text, valid_text

__all__ = ["guarded", "missing_library"]


P = ParamSpec("P")
R = TypeVar("R")


_NOT_THE_SLIDE = (MissingDependencyError, UnusableDeviceError, BundleError)
"""Errors of the machine or the model, equal for all slides."""

_MACHINE_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def guarded(step: Callable[P, R]) -> Callable[P, R | Failure | Halt]:
    """Make a step, whose first argument is a job with a ``path``, return what went wrong instead of raising it.

    What is wrong with the machine or the model is a :class:`Halt`: it would fail every slide.  Anything else is a
    :class:`Failure` of this slide, even an unexpected error, which keeps its traceback; where memory or disk space ran
    out, a passing one.
    """

    @wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R | Failure | Halt:
        reuse_freed_memory()
        path: Path = args[0].path  # type: ignore[attr-defined]
        try:
            return step(*args, **kwargs)
        except _NOT_THE_SLIDE as error:
            return Halt(error)
        except PathologyError as error:
            return Failure(_reason(path, error), passing=isinstance(error, OutputError))
        except ImportError as error:
            return Halt(missing_library(error))
        except MemoryError:
            return Failure("not enough memory; use fewer workers", passing=True)
        except OSError as error:
            reason = valid_text(f"{error.strerror or error} ({error.filename or path})")
            return Failure(reason, traceback.format_exc(), passing=error.errno in _MACHINE_IS_FULL)
        except Exception as error:
            reason = valid_text(f"unexpected error: {type(error).__name__}: {error}")
            return Failure(reason, valid_text(traceback.format_exc()))

    return run


def missing_library(error: ImportError) -> MissingDependencyError:
    """Return an import that failed as an error that names the library."""
    if error.name and (extra := extra_of(error.name)) is not None:
        return missing_extra(f"{error.name.partition('.')[0]} is needed and not installed", extra)
    name = f"the library {error.name.partition('.')[0]}" if error.name else "a library"
    return MissingDependencyError(
        f"{name} cannot be loaded ({error})", remedy="Run 'pathology doctor', which says how to install it"
    )


def _reason(path: Path, error: PathologyError) -> str:
    # The row already names the slide; repeating its path would obscure the reason.
    if error.where is not None and error.where == path_text(path):
        return f"{error.what}. {error.remedy.rstrip('.')}." if error.remedy else error.what
    return str(error)
