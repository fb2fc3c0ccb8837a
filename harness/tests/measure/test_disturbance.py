from __future__ import annotations

import time

from harness.measure.disturbance import WINDOW, AnyWatch, CpuWatch, Usage, tally, usage


class Machine:
    """Counters and a clock set by hand, of two cores."""

    def __init__(self) -> None:
        self.now = self.own = self.others = 0.0

    def pass_time(self, seconds: float, *, own: float, others: float) -> None:
        self.now += seconds
        self.own += own * 2 * seconds
        self.others += others * 2 * seconds

    def read(self) -> Usage:
        return Usage(everyone=self.own + self.others, own=self.own, capacity=2 * self.now)

    def clock(self) -> float:
        return self.now


def test_rounds_beside_other_load_are_marked_and_others_are_not() -> None:
    machine = Machine()
    watch = CpuWatch(machine.read, machine.clock)
    for done, others in enumerate((0.0, 0.05, 0.5, 0.0), start=1):
        machine.pass_time(WINDOW, own=0.5, others=others)
        watch.look(done)
    assert watch.disturbed == {2: "other processes"}
    assert tally(watch.disturbed) == {"other processes": 1}


def test_short_rounds_are_judged_together() -> None:
    machine = Machine()
    watch = CpuWatch(machine.read, machine.clock)
    for done in range(1, 11):
        machine.pass_time(WINDOW / 10, own=0.4, others=0.6 if done == 3 else 0.2)
        watch.look(done)
    # The last look may fall a hair short of the window, as sums of fractions do.
    machine.pass_time(WINDOW, own=1.0, others=0.0)
    watch.look(11)
    assert set(watch.disturbed) >= set(range(10))


def test_ones_own_load_is_no_disturbance() -> None:
    machine = Machine()
    watch = CpuWatch(machine.read, machine.clock)
    machine.pass_time(1, own=1.0, others=0.0)
    watch.look(1)
    assert watch.disturbed == {}


def test_the_real_counters_move_forward_and_hold_together() -> None:
    before = usage()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    after = usage()
    assert after.own - before.own >= 0.05
    assert after.capacity >= before.capacity
    assert after.everyone <= after.capacity


def test_what_any_watch_saw_counts() -> None:
    machine = Machine()
    one, other = (CpuWatch(machine.read, machine.clock) for _ in range(2))
    other.disturbed[7] = "GPU throttled: power cap"
    watch = AnyWatch([one, other])
    watch.look(8)
    assert watch.disturbed == {7: "GPU throttled: power cap"}
