"""`python -m flows`: the command line, for starters such as torchrun that want a module."""

from flows.cli.app import main

if __name__ == "__main__":
    main()
