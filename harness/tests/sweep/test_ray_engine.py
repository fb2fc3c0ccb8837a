"""Letters between workers and the driver."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="sweeps need Ray: pip install -e '.[sweep]'")

from harness.sweep.ray_engine import Mailbox
from harness.sweep.tasks import TaskRows


def test_what_the_driver_has_not_confirmed_is_given_again() -> None:
    box = Mailbox()
    one, two, three = (TaskRows(lines=(text,)) for text in ("one", "two", "three"))
    box.put(1, one)
    box.put(2, two)
    assert box.take(0) == [(1, one), (2, two)]
    assert box.take(0) == [(1, one), (2, two)]  # the answer was lost on its way
    box.put(1, three)
    assert box.take(2) == [(1, three)]
    assert box.take(3) == []
