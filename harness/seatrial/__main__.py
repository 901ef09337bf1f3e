"""``python -m seatrial``: the command ``seatrial`` where it is not on the PATH."""

from __future__ import annotations

from seatrial.cli import main

main()
