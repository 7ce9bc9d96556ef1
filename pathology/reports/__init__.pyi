from .page import Picture, Section, Table, write_report

__all__ = ["Picture", "Section", "Table", "write_report"]
