"""``python -m benchmarks [NAME] [OPTIONS]``, one of those in :data:`NAMES`.

Without a name: tiling, then compression.
"""

import importlib
import sys

NAMES = (
    "tiling",
    "compression",
    "formats",
    "memory",
    "scoring",
    "scheduling",
    "workers",
    "hotspots",
    "training",
    "batches",
)


def main() -> None:
    """Run the named benchmarks with the given options."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    chosen = (arguments[0],) if arguments and arguments[0] in NAMES else NAMES[:2]
    options = arguments[1:] if arguments and arguments[0] in NAMES else arguments
    for name in chosen:
        sys.argv = [f"benchmarks.{name}", *options]
        importlib.import_module(f"benchmarks.{name}").main()


main()
