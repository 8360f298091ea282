"""CS182's modules; photos and pictures are those of `cs231n`."""

import cs231n

__path__ += cs231n.__path__
