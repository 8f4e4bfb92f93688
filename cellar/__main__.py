"""``python -m cellar`` is the command ``cellar``."""

from cellar.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
