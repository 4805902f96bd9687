"""For tests that collect garbage: what earlier tests left behind is not theirs to answer for."""

import gc
import sys


def forget_earlier() -> None:
    """Collect what has been left until now, whatever it complains of as it goes.

    A test that fails half way leaves pipes, transports and processes open, in cycles. They go when
    somebody collects, and their warnings, which are errors here, would fail who did.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
