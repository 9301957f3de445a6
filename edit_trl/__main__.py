"""`python -m edit_trl` is the command `edit-trl`."""

from .cli import main


if __name__ == "__main__":
    raise SystemExit(main())
