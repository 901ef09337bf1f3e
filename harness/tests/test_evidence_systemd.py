"""Reading the system manager: properties, jobs, services, and the phases of a boot."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.systemd import Phases, boot_phases, parse_jobs, parse_services, parse_show, slower_by_s
from suite_bench import recorded


def stamps(firmware: int, loader: int, initrd: int, userspace: int, finish: int) -> dict[str, str]:
    names = ("Firmware", "Loader", "InitRD", "Userspace", "Finish")
    values = (firmware, loader, initrd, userspace, finish)
    return {f"{name}TimestampMonotonic": str(value) for name, value in zip(names, values, strict=True)}


def test_recorded_boot_has_its_phases() -> None:
    phases = boot_phases(parse_show(recorded("boot/manager")))
    assert (phases.firmware_s, phases.loader_s) == (None, None)
    assert phases.kernel_s == pytest.approx(6.623296)
    assert phases.initrd_s == pytest.approx(10.541217)
    assert phases.userspace_s == pytest.approx(12.395807)
    assert phases.total_s == pytest.approx(29.56032)


def test_firmware_and_loader_count_backwards_from_the_kernel() -> None:
    phases = boot_phases(stamps(5_000_000, 2_000_000, 0, 3_000_000, 10_000_000))
    assert phases.measured() == {"firmware_s": 3.0, "loader_s": 2.0, "kernel_s": 3.0, "userspace_s": 7.0}
    assert phases.total_s == 15.0


def test_phases_make_up_the_total() -> None:
    phases = boot_phases(stamps(9_000_000, 4_000_000, 2_000_000, 5_000_000, 11_000_000))
    assert sum(phases.measured().values()) == pytest.approx(phases.total_s)


def boot_of(kernel: float, initrd: float, userspace: float) -> Phases:
    return Phases(
        firmware_s=9.0, loader_s=3.0, kernel_s=kernel, initrd_s=initrd, userspace_s=userspace, total_s=12 + kernel
    )


@pytest.mark.parametrize(
    ("second", "slower"),
    [
        (boot_of(5, 10, 30), 0),
        (boot_of(5, 10, 40), 10),
        (boot_of(4, 10, 30), -1),  # a faster kernel makes nobody expect a faster rest
        (boot_of(10, 20, 60), 0),  # the host was half as fast
        (boot_of(10, 20, 100), 40),
        (boot_of(100, 10, 30), -40),  # no host is that slow, but the first boot times four is not reached either
        (boot_of(400, 10, 30), 260),
    ],
)
def test_second_boot_is_slower_by_what_the_host_does_not_explain(second: Phases, slower: float) -> None:
    assert slower_by_s(boot_of(5, 10, 30), second) == pytest.approx(slower)


def test_a_short_moment_of_the_kernels_tells_nothing_of_the_host() -> None:
    assert slower_by_s(boot_of(0.6, 1, 3), boot_of(0.9, 1, 9)) == pytest.approx(6.3)


def test_boot_that_is_not_finished_has_no_phases() -> None:
    with pytest.raises(ObservationError, match="not finished"):
        boot_phases(stamps(0, 0, 1, 2, 0))


def test_absent_time_stamp_is_not_zero() -> None:
    with pytest.raises(ObservationError, match="None as FirmwareTimestampMonotonic"):
        boot_phases({"FinishTimestampMonotonic": "9"})


@pytest.mark.parametrize("times", [(0, 0, 5, 4, 9), (0, 0, 0, 9, 4), (1, 2, 0, 3, 4), (0, 0, 1, 0, 4)])
def test_time_stamps_out_of_order_are_an_error(times: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ObservationError, match="out of order"):
        boot_phases(stamps(*times))


def test_prose_is_no_property() -> None:
    with pytest.raises(ObservationError, match="which is no property"):
        parse_show("Startup finished in 2.020ms (kernel)\n")


def test_property_that_comes_twice_is_an_error() -> None:
    with pytest.raises(ObservationError, match="gave 'NJobs' twice"):
        parse_show("NJobs=0\nNJobs=1\n")


def test_jobs_are_named_with_type_and_state() -> None:
    assert parse_jobs("  89 a.service  start  running\n 90 b.target start waiting\n") == (
        "a.service (start, running)",
        "b.target (start, waiting)",
    )
    assert parse_jobs("No jobs running.\n") == ()


def test_line_that_is_no_job_is_an_error() -> None:
    with pytest.raises(ObservationError, match="no job"):
        parse_jobs("Failed to list jobs: Connection timed out\n")


def test_recorded_services_are_read() -> None:
    services = {service.name: service for service in parse_services(recorded("boot/services"))}
    assert services["ssh.service"].state == "active"
    assert services["systemd-journald.service"].restarts == 1


@pytest.mark.parametrize("text", ["", "\n\n", "Id=a.service\n", "Id=a.service\nActiveState=active\nNRestarts=many\n"])
def test_unreadable_services_are_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_services(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_show, parse_jobs, parse_services):
        with contextlib.suppress(ObservationError):
            assert parse(text) is not None


@given(st.lists(st.integers(min_value=0, max_value=10**15), min_size=5, max_size=5))
def test_phases_are_never_negative(times: list[int]) -> None:
    try:
        phases = boot_phases(stamps(*times))
    except ObservationError:
        return
    assert all(seconds >= 0 for seconds in phases.measured().values())
