"""T5 from outside, long: a server at work is backed up by the command, the backup is served, nothing is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.serve.outside import FINAL, Outside, environment, rows, tiny, until

pytestmark = pytest.mark.slow


def weft(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft", *map(str, arguments)]
    return subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)


def test_a_served_backup_has_all_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    base = tiny(tmp_path / "tiny")
    with Outside(tmp_path / "home", "--base", str(base), "--heartbeat-seconds", "0.5") as server:
        client = server.sdk()
        file = client.files.create(file=rows(tmp_path / "train.jsonl", 12), purpose="fine-tune").id
        numbers = {"n_epochs": 3, "batch_size": 4}
        make = lambda: client.fine_tuning.jobs.create(model="tiny", training_file=file, hyperparameters=numbers)  # type: ignore[arg-type]  # noqa: E731
        job = make().id
        done = until(lambda: (now := client.fine_tuning.jobs.retrieve(job)).status in FINAL and now, 300)
        assert done.status == "succeeded"
        told: dict[str, bytes] = {}
        leaving: set[str] = set()
        stop, lock = threading.Event(), threading.Lock()

        def write(number: int) -> None:
            own: list[str] = []
            with httpx.Client(base_url=server.address, timeout=120) as http:
                while not stop.is_set():
                    content = os.urandom(20_000)
                    sent = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", content)})
                    with lock:
                        told[sent.json()["id"]] = content
                    own.append(sent.json()["id"])
                    if len(own) % 3 == 0:
                        with lock:
                            leaving.add(own[-2])
                        http.delete(f"/v1/files/{own[-2]}").raise_for_status()

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        counts = []
        try:
            for number in range(5):
                until(lambda number=number: len(told) >= 40 * (number + 1), 300)
                waiting = make().id
                with lock:
                    sure = dict(told)
                taken = weft(tmp_path, "store", "backup", f"copy-{number}", "--data", server.data)
                assert taken.returncode == 0, taken.stdout + taken.stderr
                with lock:
                    kept = {id: content for id, content in sure.items() if id not in leaving}
                checked = weft(tmp_path, "store", "check", "--data", f"copy-{number}", "--deep", "--json")
                assert json.loads(checked.stdout)["damages"] == []
                counts.append((len(kept), waiting))
        finally:
            stop.set()
            for writer in writers:
                writer.join()
    copy = Outside(tmp_path / "second", "--base", str(base), "--data", str(tmp_path / "copy-4"))
    with copy, httpx.Client(base_url=copy.address, timeout=120) as http:
        missing = [id for id, content in kept.items() if http.get(f"/v1/files/{id}/content").content != content]
        again = copy.sdk().fine_tuning.jobs
        assert again.retrieve(job).fine_tuned_model == done.fine_tuned_model
        asked = {"model": done.fine_tuned_model, "messages": [{"role": "user", "content": "river"}], "max_tokens": 4}
        assert http.post("/v1/chat/completions", json=asked).status_code == 200
        last = until(lambda: (now := again.retrieve(counts[-1][1])).status in FINAL and now, 300)
        assert last.status == "succeeded"
    print(
        f"T5: {len(counts)} backups beside 4 clients; {len(kept)} files known before the last, {len(missing)} missing"
    )
    assert missing == []
