"""``python -m tamis.demo``. What it runs is in run.py, where a spawned process can find it."""

from .run import main

if __name__ == "__main__":
    main()
