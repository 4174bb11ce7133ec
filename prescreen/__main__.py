"""`python -m prescreen` is the `prescreen` command."""

from prescreen.cli import main

if __name__ == "__main__":
    main()
