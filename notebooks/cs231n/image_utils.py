"""Pictures: `image_utils` of the project."""

from image_utils import *  # noqa: F403
