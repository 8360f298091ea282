"""Photos and classes: `data_utils` of the project."""

from data_utils import *  # noqa: F403
