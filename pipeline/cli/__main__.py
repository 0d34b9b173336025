"""`python -m pipeline.cli` is `headrace`."""

from pipeline.cli.app import main

main()
