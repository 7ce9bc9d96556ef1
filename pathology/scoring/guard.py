"""Conversion of exceptions in a worker to readable reasons."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from pathology.errors import PathologyError
from pathology.inference.workers.schedule import Failure
from pathology.memory import reuse_freed_memory

__all__ = ["guarded"]


P = ParamSpec("P")
R = TypeVar("R")


def guarded(step: Callable[P, R]) -> Callable[P, R | Failure]:
    """Make a step, whose first argument is a job with a ``path``, return a :class:`Failure` instead of raising.

    An unexpected error keeps its traceback; it, too, fails one slide only.
    """

    @wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R | Failure:
        reuse_freed_memory()
        path: Path = args[0].path  # type: ignore[attr-defined]
        try:
            return step(*args, **kwargs)
        except PathologyError as error:
            return Failure(_reason(path, error))
        except MemoryError:
            return Failure("not enough memory; use fewer workers")
        except OSError as error:
            return Failure(f"{error.strerror or error} ({error.filename or path})", traceback.format_exc())
        except Exception as error:
            return Failure(f"unexpected error: {type(error).__name__}: {error}", traceback.format_exc())

    return run


def _reason(path: Path, error: PathologyError) -> str:
    # The row already names the slide; repeating its path would obscure the reason.
    if error.where is not None and Path(error.where) == path:
        return f"{error.what}. {error.remedy.rstrip('.')}." if error.remedy else error.what
    return str(error)
