"""`python -m wine_drift` is the same as `wine-drift`."""

from wine_drift.cli import main

if __name__ == "__main__":
    main()
