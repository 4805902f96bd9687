"""What the daemon tells systemd: sd_notify(3) in a datagram, and silence where nobody listens."""

import logging
import os
import socket

log = logging.getLogger(__name__)

SEND_S = 1.0  # that a busy systemd may keep us waiting; it queues datagrams, so it hardly ever does


def notify(*assignments: str) -> None:
    """Send state, such as `notify("READY=1", "STATUS=serving")`; nothing without NOTIFY_SOCKET.

    A message that does not get through is a logged warning: the daemon serves all the same.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(SEND_S)
            line.sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        log.warning("systemd was not told", extra={"state": assignments, "reason": str(error)})


def watchdog() -> None:
    """Say that work gets done. Call it from the loop that must not stall, once a turn."""
    if watchdog_interval_s() is not None:
        notify("WATCHDOG=1")


def watchdog_interval_s() -> float | None:
    """How often `watchdog` must be called at least; None when systemd does not wait for it.

    Half of the unit's WatchdogSec=, as sd_watchdog_enabled(3) recommends.
    """
    timeout_us = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(timeout_us) / 2e6 if timeout_us.isdigit() and ours else None
