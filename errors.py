"""The error for what users can put right, and how messages quote names and causes."""

# The last one: of torch's own libraries, while they are loaded
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "failed to map segment")


class InputError(ValueError):
    """A file, photo, label, option or network cannot be used; the message is one line."""


def quoted(name: object) -> str:
    """Return a file name for a one-line message: in quotes, control characters escaped."""
    return repr(str(name))


def cause(error: BaseException | str) -> str:
    """Return an exception's reason on one line; of an OSError, the system's."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if text.startswith("This file contains pickled"):  # so numpy calls any text, and how to run it
        return "it holds no arrays"
    return " ".join(text.split())


def described(error: BaseException) -> str:
    """Return an exception's type and reason on one line; the type alone where it gives none."""
    return ": ".join(dict.fromkeys((type(error).__name__, cause(error))))


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for what Python, torch and its libraries raise where memory is exhausted."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
