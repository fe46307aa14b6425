"""`python -m muse_core.cli`, as torchrun starts it."""

from muse_core.cli.app import main

if __name__ == "__main__":  # worker processes import this file again, under another name
    main()
