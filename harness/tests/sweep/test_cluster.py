"""Ray itself: a cluster of two nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RequestError
from harness.records.codec import read_records
from harness.records.run_store import RunStore
from harness.records.runs import RECORDS
from harness.sweep.dispatch import Dispatch, State
from harness.sweep.merged_run import MergedRun
from harness.sweep.staging import ROOT
from harness.tests.sweep import stubs

ray = pytest.importorskip("ray", reason="sweeps need Ray: pip install -e '.[sweep]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own sockets and threads
MEMORY = 80 * 1024**2


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """A head without cores, and two nodes of one core each; everything is stopped afterwards."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        from harness.sweep.cluster import connect

        connect(cluster.address, working_directory=None, environment={"PYTHONPATH": str(ROOT)})
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_node_killed_in_the_middle_loses_nothing(two_nodes: Any, tmp_path: Path) -> None:
    from harness.sweep.cluster import check_room, nodes, survey
    from harness.sweep.ray_engine import RayEngine

    found = nodes()
    with pytest.raises(RequestError, match=r"more than any node has; there are .*0 GPUs and 1 cores"):
        check_room(found, cpus=1, gpus=1)
    facts = survey(found, results_url=f"file://{tmp_path}/results", cpus=1, gpus=0)
    assert len(facts) == 2
    assert len({str(f.versions) for f in facts}) == 1

    began = tmp_path / "began"
    began.mkdir()
    work = stubs.tasks(8, checks=8)
    here = ray.get_runtime_context().get_node_id()  # the driver's own node may be any: without it there is no sweep
    names = {row["RayletSocketName"]: row["NodeID"] for row in ray.nodes() if row["NodeID"] != here}
    victim = next(node for node in two_nodes.worker_nodes if node.raylet_socket_name in names)
    doomed = names[victim.raylet_socket_name]
    killed: list[str] = []

    def kill_in_the_middle(state: State) -> None:
        there = [f.task.key for f in state.running.values() if f.placement.get("node") == doomed]
        if there and not killed:
            killed.extend(there)
            two_nodes.remove_node(victim, allow_graceful=False)
            (began / stubs.GATE).touch()

    store = RunStore(tmp_path, "run")
    engine = RayEngine(stubs.order(directory=str(began)), execute=stubs.gated)
    dispatch = Dispatch(work, engine, MergedRun(store), watch=kill_in_the_middle)
    dispatch.run()
    assert killed
    rows = [r.test for r in read_records(tmp_path / "run" / RECORDS)]
    assert sorted(rows) == sorted(c.test for t in work for c in t.cases)
    assert {r.outcome for r in read_records(tmp_path / "run" / RECORDS)} == {"passed"}  # type: ignore[union-attr]
    assert dispatch.state.done == len(work)
    assert dispatch.state.retried >= 1
    again = [sum(path.name.startswith(f"{t.architecture}.") for path in began.iterdir()) for t in work]
    assert sorted(again)[-1] == 2
    assert again[[t.key for t in work].index(killed[0])] == 2
