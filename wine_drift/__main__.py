"""The program: `wine-drift` and `python -m wine_drift` are the same."""

import signal


def run() -> None:
    """Import the command line, which an interrupt ends without a word, and hand over to it."""
    python_s_own = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else: ignored
    if python_s_own:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wine_drift.cli import main

    if python_s_own:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


if __name__ == "__main__":
    run()
