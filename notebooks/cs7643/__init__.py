"""The modules of `cs231n` under the other course's name."""

import cs231n

__path__ = cs231n.__path__
