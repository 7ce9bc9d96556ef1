from .boxes import boxes_command

__all__ = ["boxes_command"]
