"""The command line: thin, fast to start, and the same functions a script would call."""

from pathology.cli.app import main

__all__ = ["main"]
