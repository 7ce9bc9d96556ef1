from .excel import write_excel

__all__ = ["write_excel"]
