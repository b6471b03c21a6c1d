"""``python -m tamis`` is the command ``tamis``."""

from .cli import main

if __name__ == "__main__":
    main()
