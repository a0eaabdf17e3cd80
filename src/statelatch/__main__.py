"""`python -m statelatch`: the command line."""

from statelatch.cli import main

if __name__ == "__main__":
    main()
