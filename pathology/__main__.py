"""``python -m pathology``: the same as the ``pathology`` command."""

from pathology.cli.app import main

main()
