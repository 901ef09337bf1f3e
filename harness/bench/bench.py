"""``tox -e bench``: the machine against what one would type by hand, all as ratios within this one run.

Wall time on a shared host swings, so both sides of a ratio are run alternately and compared by their medians.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from asking import asking
from copies import copies
from rows import Row, save
from seatrial.clock import Deadline
from seatrial.images import built
from seatrial.layout import cache_dir, data_dir, out_dir
from seatrial.machine.accelerator import choices
from seatrial.machine.definition import load_machine
from seatrial.machine.firmware import usable_firmware

HERE = Path(__file__).parent
READY = b"a root shell in the candidate"
MIB = 1024.0
PROGRESS = sys.stderr


def main() -> int:
    """Measure, print and save; exit status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=3, help="boots of each kind (default 3)")
    repeats = parser.parse_args().n
    image = built("immutable", say=lambda text: print(text, file=PROGRESS), deadline=Deadline(3600))
    rows = [start_of_pytest(), *boots(image, repeats), *copies(image), *asking(image)]
    return save(rows, out_dir() / "bench.json")


def start_of_pytest(runs: int = 20) -> Row:
    """Measure how much longer ``pytest --version`` takes with the plugin installed, in milliseconds."""
    command = [sys.executable, "-m", "pytest", "--version"]
    without, with_plugin = [], []
    for _ in range(runs):
        without.append(seconds_of([*command, "-p", "no:seatrial"]))
        with_plugin.append(seconds_of(command))
    more_ms = 1000 * (statistics.median(with_plugin) - statistics.median(without))
    return Row.at_most("pytest --version with the plugin against without, ms more", more_ms, 30)


def seconds_of(command: list[str]) -> float:
    """Return the wall seconds of one run of ``command``."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def boots(image: Path, repeats: int) -> list[Row]:
    """Boot alternately by hand and with Seatrial; return the ratio and the harness's peak memory."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        key = Path(place, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        by_hand, ours, peaks = [], [], []
        for number in range(1, repeats + 1):
            by_hand.append(raw_boot(image, key))
            seconds, peak_mib = our_boot(image)
            ours.append(seconds)
            peaks.append(peak_mib)
            print(f"boot {number}: by hand {by_hand[-1]:.1f} s, seatrial {seconds:.1f} s", file=PROGRESS)
    ratio = statistics.median(ours) / statistics.median(by_hand)
    return [
        Row.at_most("seatrial boot to ready against QEMU and ssh by shell script", ratio, 1.10),
        Row.at_most("peak memory of the harness beside one guest, MB", max(peaks), 120),
    ]


def raw_boot(image: Path, key: Path) -> float:
    """Return the seconds from the start of QEMU to a settled guest, by the shell script."""
    machine = load_machine("q35-uefi", data_dir("qemu") / "machines")
    firmware = usable_firmware(machine)
    assert firmware is not None
    accelerator = choices("auto", cache_dir())[0].accelerator
    cpu = machine.cpu.kvm if accelerator == "kvm" else machine.cpu.tcg
    script = [str(HERE / "raw_boot.sh"), str(image), str(key), str(firmware.code), str(firmware.variables)]
    done = subprocess.run([*script, cpu, accelerator], check=True, capture_output=True, text=True, timeout=900)
    return float(done.stdout)


def our_boot(image: Path) -> tuple[float, float]:
    """Return the seconds from the start of ``seatrial boot`` to its shell, and its peak memory in MiB."""
    command = [sys.executable, "-m", "seatrial", "boot", str(image), "--flavour", "debian-immutable"]
    start = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    read_until(terminal, lambda said: READY in said, limit_s=900)
    seconds = time.perf_counter() - start
    peak_mib = peak_memory_mib(child)
    time.sleep(2)  # the shell opens its terminal
    os.write(terminal, b"exit\n")
    read_until(terminal, lambda _said: False, limit_s=120)
    _pid, status = os.waitpid(child, 0)
    assert status == 0, f"seatrial boot ended with {status}"
    return seconds, peak_mib


def read_until(terminal: int, is_done: Callable[[bytes], bool], *, limit_s: float) -> None:
    """Read what ``terminal`` says until ``is_done`` or its end."""
    said, end = b"", time.perf_counter() + limit_s
    while not is_done(said):
        assert time.perf_counter() < end, said[-500:]
        if select.select([terminal], [], [], 1)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # how a terminal ends on Linux
                return
            said = (said + piece)[-1_000_000:]


def peak_memory_mib(pid: int) -> float:
    """Return the most memory that the process has ever held (proc(5), VmHWM)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / MIB


if __name__ == "__main__":
    sys.exit(main())
