"""Questions that take long and depend on nothing but files: the guest may answer them beside others."""

from __future__ import annotations

__all__ = ["Aside"]


class Aside(str):
    """A question that reads files which no other question writes, and changes nothing, a loaded module included.

    Where the guest has a second processor, these are answered there one after the other, while it answers all others.
    """

    __slots__ = ()
