"""`python -m scanwise`, the same as the `scanwise` command."""

from scanwise.cli import main

if __name__ == "__main__":
    main()
