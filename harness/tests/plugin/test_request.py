"""What an invocation asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RequestError
from harness.plugin.request import Request


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "tpu"}, "--device tpu: not a device; known: auto, cpu, cuda, cuda:N"),
        ({"device": "meta"}, "--device meta: known: auto, cpu, cuda, cuda:N"),
        ({"budget": 0.0}, "--budget 0: expected a positive number of seconds"),
        ({"seed": -5}, "--seed -5: expected a whole number from 0 to 2,147,483,647"),
        ({"seed": 2**32}, "--seed 4294967296: expected a whole number from 0 to 2,147,483,647"),
    ],
)
def test_options_are_read_before_anything_is_run(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    made = {"specs": (), "patterns": (), "device": "cpu", "results": tmp_path, "budget": 1.0, "seed": 0}
    request = Request(**{**made, "compile_backend": "aot_eager", "pretrained": False, **options})
    with pytest.raises(RequestError, match=f"^{re.escape(says)}$"):
        request.validated()
