"""The error tree: what went wrong, where, and the remedy.

    RayalignError
    |- InputError        the user's input is wrong (exit code 2, nothing was started); also a ValueError
    |- ActorError        an actor failed or died: role, cause, last log lines
    |  |- LostError      its process or its machine is gone, stopped or hung: the same work can be done again
    |     |- LostDataError   what it kept for others went with it
    |- DeadlineError     a wait on another process ran out; also a TimeoutError
    |- WeightError       a weight transfer was corrupt, or its probe disagreed
    |- CapacityError     a device has too little memory for a claim
    |- GuardError        a guard, or a loss that is not finite, stopped the run
       |- RollbackError  a guard sent the stage back to its last good checkpoint: it goes on from there

Every error is made of its message alone, so that it survives pickling through Ray.
"""

from __future__ import annotations


class RayalignError(Exception):
    """Root of the tree; the message says what happened, where, and what to do."""


class InputError(RayalignError, ValueError):
    """The user's job, data or model cannot be used as given."""


class ActorError(RayalignError, RuntimeError):
    """An actor failed; the message names its role, the cause and its last log lines."""


class LostError(ActorError):
    """An actor's process or machine is gone, stopped or hung; another one can do the same work."""


class LostDataError(LostError):
    """What an actor had kept for others went with its process; it has to be made again."""


class DeadlineError(RayalignError, TimeoutError):
    """Another process did not answer within its deadline."""


class WeightError(RayalignError, RuntimeError):
    """Weights did not arrive as they were sent, or the engine computes something else with them."""


class CapacityError(RayalignError, RuntimeError):
    """A role claimed more memory than its device has left."""


class GuardError(RayalignError, RuntimeError):
    """A guard whose action is `stop` was tripped, or a loss was not finite; the run can be resumed."""


class RollbackError(GuardError):
    """A guard whose action is `rollback` was tripped; the checkpoints since then are gone, and the stage goes on."""
