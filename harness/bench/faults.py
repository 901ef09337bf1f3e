"""``tox -e faults``: break candidates, guests, runs and this computer's disk in every way, and see what a run says.

Each row is one run of the product, as a user starts it, with one fault in it. A row that does not come to the typed
error, the exit status and the time of the table, or that leaves something behind, fails the command.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from fault_rows import FAULTS
from fault_run import Fault, Result, run_fault
from micro import Micro, micro_guest
from seatrial.layout import out_dir

__all__ = ["main", "markdown", "with_table"]

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- faults: written by tox -e faults -->", "<!-- faults: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the table; exit status 1 when a row is not as it must be. A part of the table (``-k``) writes no file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", metavar="TEXT", action="append", help="only rows whose name holds TEXT; may be repeated")
    parser.add_argument("-j", type=int, default=2, help="rows at a time (default 2)")
    parser.add_argument("--keep", action="store_true", help="keep the folders of rows that fail")
    asked = parser.parse_args(arguments)
    rows = [row for row in FAULTS if not asked.k or any(text in row.name for text in asked.k)]
    # Whoever starts this in the background of a shell has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    results = list(run_all(rows, at_a_time=asked.j, keep=asked.keep))
    failed = sum(bool(result.wrong) for result in results)
    print(f"{len(results)} faults, {failed} not as they must be, in {(time.monotonic() - started) / 60:.1f} minutes")
    if not asked.k:
        save(results, out_dir() / "faults.json")
        README.write_text(with_table(README.read_text("utf-8"), markdown(results)), "utf-8")
    return 1 if failed or not results else 0


def run_all(rows: Sequence[Fault], *, at_a_time: int, keep: bool) -> Iterator[Result]:
    """Run ``rows``, telling what came of each; the results come in the order of the table."""
    micro = micro_guest()
    with ThreadPoolExecutor(at_a_time) as pool:
        yield from pool.map(lambda row: _run(row, micro, keep=keep), rows)


def _run(row: Fault, micro: Micro, *, keep: bool) -> Result:
    place = Path(tempfile.mkdtemp(prefix="seatrial-fault-"))
    result = run_fault(row, place, micro)
    told = [f"{'FAIL' if result.wrong else 'ok':4} {result.seconds:6.1f} s  {row.name}: {result.error}", *result.wrong]
    if result.wrong and keep:
        told.append(f"kept: {place}")
    else:
        shutil.rmtree(place)
    print("\n       ".join(told), flush=True)
    return result


def save(results: Sequence[Result], path: Path) -> None:
    """Write ``results`` as a list of ``fault, error, seconds, limit_s, exit_status, leftovers, digest_unchanged``."""
    rows = [{name: value for name, value in asdict(result).items() if name != "wrong"} for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"written to {path}")


def markdown(results: Sequence[Result]) -> str:
    """Return ``results`` as a table in Markdown."""
    lines = [
        "| fault | what the run says | seconds | limit | exit | left | digest |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for result in results:
        digest = "unchanged" if result.digest_unchanged else "**changed**"
        fault = _escaped(result.fault)
        name = f"**{fault}**" if result.wrong else fault
        lines.append(
            f"| {name} | {_cell(result.error)} | {result.seconds:.1f} | {result.limit_s:g} | {result.exit_status} | "
            f"{result.leftovers} | {digest} |"
        )
    return "\n".join(lines)


def with_table(readme: str, table: str) -> str:
    """Return ``readme`` with ``table`` between its markers.

    :raises ValueError: it has no markers.
    """
    before, begin, rest = readme.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no place for the table: {BEGIN} ... {END}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def _cell(text: str) -> str:
    kind, colon, message = text.partition(": ")
    return f"`{kind}`{colon}{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'").replace("*", "\\*")


if __name__ == "__main__":
    sys.exit(main())
