"""Every error that `recllm` raises on purpose.

    RecllmError                 exit 1   something failed; the message says the remedy
    ├── UsageError              exit 2   wrong arguments: unknown option value, k of 0, a filter that does not parse
    │   ├── UnknownIdError      exit 2   an id that no item, no user or no key has
    │   └── ConflictError       exit 2   the same thing changed meanwhile, or its name is taken
    ├── DataError               exit 2   the input is wrong
    │   └── IngestError         exit 2   a file or a load is refused; carries a code such as E_ENCODING
    ├── NothingToDo             exit 3   the request is valid and empty
    ├── PolicyError             exit 4   consent, group floor or another rule says no
    ├── StoreError              exit 1   the database is missing, locked, read-only, newer, corrupt or full
    ├── ModelError              exit 1   weights missing, tampered with or of the wrong shape
    │   └── NotFittedError      exit 1   asked before training
    ├── PromptError             exit 1   a template is missing, or a variable is unknown or missing
    ├── GenerationError         exit 1   a generator failed or is down
    └── MissingExtraError       exit 1   an optional dependency is not installed; names the install command

The exit code is the one that the command line ends with.
"""

from __future__ import annotations

from collections.abc import Mapping


class RecllmError(Exception):
    """Base of the tree. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(RecllmError):
    exit_code = 2


class UnknownIdError(UsageError):
    pass


class ConflictError(UsageError):
    pass


class DataError(RecllmError):
    exit_code = 2
    keys: tuple[str, ...] = ()
    """Those of a document that are wrong, where they are known."""


class IngestError(DataError):
    """A file or a load was refused and nothing of it was kept.

    `code` is one of the `E_...` codes of the ingest documentation; `quarantine_file` holds the rows that were refused,
    where they are why.
    """

    def __init__(self, code: str, message: str, quarantine_file: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.quarantine_file = quarantine_file


class NothingToDo(RecllmError):  # noqa: N818 - it is an outcome, not a fault
    exit_code = 3
    left_out: Mapping[str, int | None] = {}
    """Of a campaign that reaches no one: reason -> people."""


class PolicyError(RecllmError):
    exit_code = 4


class StoreError(RecllmError):
    pass


class ModelError(RecllmError):
    pass


class NotFittedError(ModelError):
    pass


class PromptError(RecllmError):
    pass


class GenerationError(RecllmError):
    pass


class DeliveryError(RecllmError):
    """A mail server took nothing."""


class MissingExtraError(RecllmError):
    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'recllm[{extra}]'")
        self.package = package
        self.extra = extra
