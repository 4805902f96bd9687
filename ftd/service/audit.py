"""Who did what: one line for each call that changes something, and for each that was not let in.

The lines are those of the logger `ftd.audit`, and are written whatever `log_level` is. Reads and
answers of models are not among them: they change nothing, and the metrics count them.

    right:  audit.concerns(job.id)     in the use case, as soon as the name is known
    wrong:  a line written there       a call that was refused never comes so far
"""

import logging
from contextvars import ContextVar

from ftd.core.keys import Scope
from ftd.host.redact import without_keys
from ftd.service.actor import Actor

LOGGER = "ftd.audit"
RECORDED = frozenset({Scope.SUBMIT, Scope.ADMIN})  # what may change something
ADMIN_KEY = "admin.key"  # the home's own, which has no id
NAMED = 16  # objects of one call
CHARACTERS = 200  # of what a client has named

_log = logging.getLogger(LOGGER)
_about: ContextVar[list[str]] = ContextVar("about")


def begin() -> None:
    """A call begins, in a context of its own: it is about nothing yet."""
    _about.set([])


def concerns(name: str) -> None:
    """Say what the current call is about; of no effect outside of one."""
    about, known = _about.get(None), _clipped(name)
    if about is not None and len(about) < NAMED and known not in about:
        about.append(known)


def _clipped(name: str) -> str:
    """No key in it, which a cut would make unknown to who hides them later."""
    return without_keys(name)[:CHARACTERS]


def ended(
    call: str,
    *,
    needs: Scope | None,
    actor: Actor | None,
    outcome: str,
    refused: bool,
    peer: str | None,
) -> None:
    """A call has ended. `needs` is what the table of rules wants for it; `refused` is whether it
    was not let in: for want of a key or a scope, or as another host's or page's."""
    if needs not in RECORDED and not refused:
        return
    _log.info(
        "call",
        extra={
            "call": _clipped(call),
            "about": ",".join(_about.get([])) or None,
            "outcome": outcome,
            "key": None if actor is None else actor.key_id or ADMIN_KEY,
            "by": None if actor is None else actor.name,
            "project": None if actor is None else actor.project,
            "peer": peer,
        },
    )
