"""``python -m seatrial.doctor [--install] [--brief]``, with nothing but the standard library."""

from __future__ import annotations

import argparse
import sys

from seatrial import doctor
from seatrial.errors import SeatrialError


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m seatrial.doctor", description="Say what this computer lacks.")
    parser.add_argument("--install", action="store_true", help="install what is missing, saying first what changes")
    parser.add_argument("--brief", action="store_true", help="do not list what is there")
    given = parser.parse_args()
    try:
        return doctor.main(install_missing=given.install, say_all=not given.brief)
    except SeatrialError as error:
        print(f"seatrial doctor: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(_main())
