"""Everything that a user can cause, each with its exit code.

A message says what failed and where; `remedy` says what to do about it. The command line prints
both and nothing else; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar

DRIFT_FOUND = 8  # exit code of a run that ended well, for those who set fail_on


class WineDriftError(Exception):
    """Root of all errors that are told to the user rather than traced.

    >>> error = SettingsError("budget: -1 is not a whole number >= 1", remedy="set budget to 1000")
    >>> error.exit_code, str(error), error.remedy
    (2, 'budget: -1 is not a whole number >= 1', 'set budget to 1000')
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class SettingsError(WineDriftError):
    """The settings, the options or the files they name cannot be used."""

    exit_code = 2


class TableError(SettingsError):
    """What a table file holds is no table. Where it is a batch, the run quarantines it."""


class FileUnreadable(TableError):
    """The system would not let a table file be read: no fault of the batch, which stays."""

    exit_code = 6


class BadBatch(WineDriftError):
    """The batch as a whole cannot be processed; its file is in quarantine."""

    exit_code = 3


class PushFailed(WineDriftError):
    """The batch is done and safe; the metrics did not reach a sink."""

    exit_code = 4

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason  # connection | timeout | rejected


class AlreadyRunning(WineDriftError):
    """Another run holds the lock of this home."""

    exit_code = 5


class StateUnreadable(WineDriftError):
    """The ledger or a model version is damaged, missing or from a newer release."""

    exit_code = 6


class ClusterLost(WineDriftError):
    """The Dask cluster cannot be reached, or could not do its work; the batch is taken again."""

    exit_code = 6


class BadLabels(WineDriftError):
    """A file of late labels does not fit its batch; nothing was changed."""

    exit_code = 3


class RetrainingFailed(WineDriftError):
    """The batch is done and safe; no challenger could be made, and the champion goes on serving."""

    exit_code = 9


class Unhealthy(WineDriftError):
    """The job is overdue, failed or never run; or a selftest found a promise broken."""

    exit_code = 7
