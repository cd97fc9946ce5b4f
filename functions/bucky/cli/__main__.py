"""`python -m bucky.cli`: the same as the `bucky` command."""

from bucky.cli.app import main

main()
