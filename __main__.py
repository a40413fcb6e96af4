"""``python -m kdpipe``."""

from kdpipe.cli.main import main

if __name__ == "__main__":
    main()
