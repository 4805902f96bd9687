"""What was made under which key of a client. A row is written with what is made, or not at all.

right:  claim(tx, ...) and the insert in one transaction: of two that come at once the second
        finds the first one's row, and after a crash there are both or neither
wrong:  a look before the transaction, or a row after it
"""

from ftd.core.once import KEPT_S, Once, Repeated, reused
from ftd.store.db import Transaction


def claim(tx: Transaction, project: str, once: Once, made: str, now: int) -> None:
    """Note that `made` is made for this request. Raises Repeated where something was, and INVALID
    where the key was used for another request."""
    tx.execute("DELETE FROM idempotency WHERE made_at <= ?", (now - KEPT_S,))
    found = tx.execute(
        "SELECT sha256, made FROM idempotency WHERE project = ? AND key = ?", (project, once.key)
    ).fetchone()
    if found is None:
        tx.execute(
            "INSERT INTO idempotency (project, key, sha256, made, made_at) VALUES (?, ?, ?, ?, ?)",
            (project, once.key, once.sha256, made, now),
        )
    elif found["sha256"] == once.sha256:
        raise Repeated(found["made"])
    else:
        raise reused(once.key)


def forget(tx: Transaction, made: str) -> None:
    """It was not made after all."""
    tx.execute("DELETE FROM idempotency WHERE made = ?", (made,))
