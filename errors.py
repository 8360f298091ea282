"""The error for what users can put right, and how messages quote names and causes."""


class InputError(ValueError):
    """A file, photo, label, option or network cannot be used; the message is one line."""


def quoted(name: object) -> str:
    """Return a file name for a one-line message: in quotes, control characters escaped."""
    return repr(str(name))


def cause(error: BaseException | str) -> str:
    """Return an exception's reason on one line; of an OSError, the system's."""
    return " ".join(
        (getattr(error, "strerror", None) or str(error) or type(error).__name__).split()
    )
