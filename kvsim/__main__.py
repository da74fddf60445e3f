"""``python -m kvsim``: the command line."""

from kvsim.commands import main

if __name__ == "__main__":
    main()
