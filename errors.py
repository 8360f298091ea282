"""The one error for what users can put right, and how messages quote names and causes. Standard
library only.
"""


class InputError(ValueError):
    """A file, photo, label, option or network that cannot be used; the message is one line for the
    user.
    """


def quoted(name: object) -> str:
    """Return a file name as it can stand in a one-line message: in quotes, control characters
    escaped.
    """
    return repr(str(name))


def cause(error: BaseException | str) -> str:
    """Return why an exception was raised, on one line: the system's words for an OSError, else its
    own.
    """
    return " ".join(
        (getattr(error, "strerror", None) or str(error) or type(error).__name__).split()
    )
