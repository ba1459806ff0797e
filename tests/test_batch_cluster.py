"""`edge-lfm batch --ray`: a cluster of two machines, both here, answers as one does, whatever becomes of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_batch import COMMAND, chat, records, run, write

pytest.importorskip("ray", reason="needs ray")
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MACHINE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that has no processors, as that of who gives out the lines, and two machines. Its files lie in a short
    folder of its own: names of sockets hold 107 characters."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    head = MACHINE | {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    (Path(folder) / "ray").mkdir()  # `Cluster` notes its address there, and does not make the folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                made.add_node(**MACHINE)
            yield made
        finally:
            made.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def told(record: dict[str, Any]) -> Any:
    """What an answer says: all but names, times, and what of a prompt was computed before."""
    response = record["response"]
    if response is None:
        return record["error"]
    body = response["body"]
    choices = [[choice.get("text"), choice.get("message")] for choice in body.get("choices", ())]
    return response["status_code"], choices, body.get("usage", {}).get("total_tokens"), body.get("error")


def by_line(path: Path) -> dict[int, Any]:
    return {record["line"]: (record["id"], record["custom_id"], told(record)) for record in records(path)}


def test_the_answers_are_those_of_one_machine(cluster: Cluster, tmp_path: Path) -> None:
    lines = [chat(n) for n in range(30)]
    lines[4:4] = ["nonsense", chat(2), chat(100, response_format={"type": "rhyme"}), chat(101, n=3)]
    lines.append({"custom_id": "text", "url": "/v1/completions", "body": {"prompt": ["The cat", "A dog"], "seed": 1}})
    requests = write(tmp_path / "in.jsonl", lines)
    alone, together = (
        run(requests, tmp_path / "alone.jsonl"),
        run(requests, tmp_path / "together.jsonl", "--ray", cluster.address),
    )
    assert alone.returncode == together.returncode == 1, together.stderr
    assert "3 requests failed" in together.stderr and "Traceback" not in together.stderr
    assert by_line(tmp_path / "together.jsonl") == by_line(tmp_path / "alone.jsonl")
    assert len(records(tmp_path / "together.jsonl")) == len(lines)
    counts = json.loads(together.stdout)
    assert (counts["answered"], counts["failed"], counts["machines_lost"]) == (32, 3, 0)
    again = run(requests, tmp_path / "together.jsonl", "--ray", cluster.address)
    assert again.returncode == 0 and json.loads(again.stdout)["before"] == len(lines)


def test_the_loss_of_a_machine_loses_and_repeats_nothing(cluster: Cluster, tmp_path: Path) -> None:
    count, output = 150, tmp_path / "out.jsonl"
    requests = write(tmp_path / "in.jsonl", [chat(n, max_tokens=40, ignore_eos=True) for n in range(count)])
    victim = cluster.add_node(**MACHINE)
    command = [*COMMAND, str(requests), "-o", str(output), "--threads", "1", "--json", "--ray", cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and (not output.exists() or output.read_bytes().count(b"\n") < 20):
            time.sleep(0.02)
        cluster.remove_node(victim, allow_graceful=False)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["machines_lost"] == 1 and json.loads(out)["answered"] == count
    assert Counter(r["custom_id"] for r in records(output)) == {f"ask-{n}": 1 for n in range(count)}
    assert all(r["response"]["status_code"] == 200 for r in records(output))


def test_what_a_machine_cannot_load_is_told_with_its_address(cluster: Cluster, tmp_path: Path) -> None:
    requests = write(tmp_path / "in.jsonl", [chat(1)])
    command = [*COMMAND, str(requests), str(tmp_path / "no-model"), "-o", str(tmp_path / "out.jsonl")]
    done = subprocess.run([*command, "--ray", cluster.address], capture_output=True, text=True, timeout=280)
    assert done.returncode == 1 and "no-model" in done.stderr and "mend that machine" in done.stderr
    assert "Traceback" not in done.stderr and records(tmp_path / "out.jsonl") == []


def test_an_address_without_a_cluster_is_told(tmp_path: Path) -> None:
    requests = write(tmp_path / "in.jsonl", [chat(1)])
    done = run(requests, tmp_path / "out.jsonl", "--ray", "127.0.0.1:9", env=os.environ | {"RAY_ADDRESS": ""})
    assert done.returncode == 2 and "no Ray cluster at 127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr
