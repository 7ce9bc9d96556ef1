from .card import Card, Metric, read_card
from .catalogue import Bundle, list_bundles, load_bundle
from .export import export_bundle, import_bundle
from .verify import verify_bundle

__all__ = [
    "Bundle",
    "Card",
    "Metric",
    "export_bundle",
    "import_bundle",
    "list_bundles",
    "load_bundle",
    "read_card",
    "verify_bundle",
]
