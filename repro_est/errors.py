"""Every error `repro` raises on purpose, and the exit code each one means.

    ReproError                     5  root; never raised itself
    |- UsageError                  2  the command line or the recipe is wrong
    |  |- RecipeError              2  one or more problems in a recipe file, all reported at once
    |  |- NotBuiltYet              2  asked for something `repro` knows of but cannot do yet
    |  |- SourceError              2  the source directory cannot be taken as a snapshot
    |  `- InputError               2  a declared input is missing or is not what was declared
    |     `- NeedsRun              2  the run of another recipe comes first, and only `repro run` runs anything
    |- LockError                   3  the lock is missing, stale or cannot be made
    |- VerificationError           4  bytes are not what their name or their lock says
    |  `- UntrustedError           4  a statement is not signed by anybody who is believed here, or was changed since
    |- InfrastructureError         5  this machine, its disk or the network failed
    |  |- StoreError               5  the store cannot be used (format, space, permissions)
    |  |- EnvironmentBuildError    5  the packages of a run could not be installed
    |  |- HostsFailed              5  a host, MPI or a container ended a run, not its script; may be tried again
    |  |- LostContact              5  no host of a run can be reached; it goes on there
    |  |- NotCollected             5  a run has completed at its hosts, and what it wrote could not be brought here
    |  |- RemoteError              5  a remote cannot be reached, or does not take what is written to it
    |  `- HostError                5  a host cannot be used; drawn further in `hosts.host`
    |- ScriptFailed                1  the training script failed, timed out or kept no promise
    |  `- TimedOut                  1  it took longer than it may
    |- Interrupted               130  the user cancelled
    `- Detached                    0  the client left, as it was told to; the run goes on

A message says what, where, got and expected. `hint` is the next command to type. Whoever knows the
reason raises; nobody wraps an error in another one.
"""

from __future__ import annotations

from dataclasses import dataclass


class ReproError(Exception):
    """Root of the tree: a message for people, an exit code, an optional hint, and what it makes of a run."""

    exit_code = 5
    status = "failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, str | int | None]:
        """What a verb prints under `--json` in place of an answer."""
        return {"error": self.message, "hint": self.hint, "exit_code": self.exit_code}


class UsageError(ReproError):
    """The command line or the recipe asks for something that makes no sense."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a TOML file.

    Args:
        file: the file as the user named it.
        line: 1-based line, or None when the place is not a line (a missing key).
        key: dotted key, `""` for the document itself.
        message: what is wrong, with got and expected.
        hint: the nearest name, or what to write instead.
    """

    file: str
    line: int | None
    key: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else self.file
        subject = f"{self.key}: " if self.key else ""
        hint = f" (hint: {self.hint})" if self.hint else ""
        return f"{place}: {subject}{self.message}{hint}"


class RecipeError(UsageError):
    """Everything wrong with a recipe, at once."""

    def __init__(self, problems: tuple[Problem, ...], *, hint: str | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = problems


class NotBuiltYet(UsageError):
    """A feature this version knows the name of and cannot do."""


class SourceError(UsageError):
    """The source directory cannot be taken as a snapshot."""


class InputError(UsageError):
    """A declared input is missing, unreadable or not what was declared."""


class NeedsRun(InputError):
    """An input is of a run that is not there yet; `repro run` makes it first, whoever only asks does not."""


class LockError(ReproError):
    """The lock is missing, stale, or cannot be made from these requirements."""

    exit_code = 3


class VerificationError(ReproError):
    """Bytes are not what their name, their lock or their record says."""

    exit_code = 4


class UntrustedError(VerificationError):
    """A statement is not signed by anybody who is believed here, or was changed since."""


class InfrastructureError(ReproError):
    """This machine, its disk or the network failed; the recipe may be fine."""

    exit_code = 5


class StoreError(InfrastructureError):
    """The store cannot be used: newer format, full disk, no permission."""


class EnvironmentBuildError(InfrastructureError):
    """The packages of a run could not be installed."""


class HostsFailed(InfrastructureError):
    """A host was lost, or what starts ranks failed: the script may be fine, and the run may be tried again."""


class LostContact(InfrastructureError):
    """No host of a run can be reached; it goes on where it is, and can be attached to."""

    status = "detached"


class NotCollected(InfrastructureError):
    """A run has completed at its hosts, and what it wrote could not be brought here yet; it can be tried again."""

    status = "detached"


class RemoteError(InfrastructureError):
    """A remote of the team cannot be reached, or does not take what is written to it."""


class ScriptFailed(ReproError):
    """The training script failed, timed out, or did not write what it declared."""

    exit_code = 1


class TimedOut(ScriptFailed):
    """The training script took longer than `max_run_duration_seconds`."""

    status = "timed_out"


class Interrupted(ReproError):
    """The user cancelled."""

    exit_code = 130
    status = "canceled"


class Detached(ReproError):
    """The client left a run that its hosts own: what was asked for, and no failure."""

    exit_code = 0
    status = "detached"
