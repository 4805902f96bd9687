"""The reasons why a model is not taken in, each with a code that programs can read."""

from ftd.core.errors import FtdError, Kind, invalid

_SHOWN_CHARACTERS = 120


def not_found(message: str) -> FtdError:
    """There is nothing at the place that was named, or it cannot be read."""
    return FtdError(Kind.NOT_FOUND, message, code="model_source_not_found", param="source")


def unreachable(message: str) -> FtdError:
    """It has to come over a network that did not answer."""
    return FtdError(Kind.UNAVAILABLE, message, code="model_source_unreachable", param="source")


def unsafe(message: str) -> FtdError:
    """It could run code, or reach beyond its own directory."""
    return invalid(message, code="unsafe_model", param="source")


def broken(message: str) -> FtdError:
    """It contradicts itself or its format."""
    return invalid(message, code="broken_model", param="source")


def unsupported(message: str) -> FtdError:
    """It may well be sound, but nothing here could train it."""
    return invalid(message, code="unsupported_model", param="source")


def shown(text: object) -> str:
    """Somebody else's text in a message of ours: quoted, on one line, in ASCII, not too long."""
    quoted = ascii(str(text)[:_SHOWN_CHARACTERS])
    return quoted if len(str(text)) <= _SHOWN_CHARACTERS else f"{quoted}..."
