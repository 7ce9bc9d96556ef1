from .commands import add_commands

__all__ = ["add_commands"]
