"""``python -m kvsim``: the command line."""

from kvsim.commands import main

main()
