"""Other clients of the API, installed where that is possible: the Node SDK and litellm, from upload to chat."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.outside import Outside, environment, rows, tiny

pytestmark = pytest.mark.slow

NODE = """
import fs from "node:fs";
import OpenAI from "openai";

const client = new OpenAI();
const file = await client.files.create({ file: fs.createReadStream(process.argv[2]), purpose: "fine-tune" });
await client.files.waitForProcessing(file.id);
let job = await client.fineTuning.jobs.create({
  model: "gpt-4o-mini", training_file: file.id,
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 3 } } },
});
while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  await new Promise((resolve) => setTimeout(resolve, 500));
  job = await client.fineTuning.jobs.retrieve(job.id);
}
if (job.status !== "succeeded") throw new Error(JSON.stringify(job.error));
let events = 0, checkpoints = 0;
for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 3 })) if (event.id) events += 1;
for await (const point of client.fineTuning.jobs.checkpoints.list(job.id, { limit: 1 })) if (point.id) checkpoints += 1;
const table = await (await client.files.content(job.result_files[0])).text();
const model = job.fine_tuned_model;
const ask = { model, messages: [{ role: "user", content: "river number 7" }], max_tokens: 20, temperature: 0 };
const whole = (await client.chat.completions.create(ask)).choices[0].message.content;
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
  streamed += chunk.choices[0].delta.content ?? "";
let missing = 0;
try { await client.models.retrieve("nowhere"); } catch (error) { missing = error instanceof OpenAI.NotFoundError; }
console.log(JSON.stringify([model.startsWith("ft:tiny:"), events > 6, checkpoints,
  table.startsWith("step,train_loss"), whole === streamed, missing]));
"""

LITELLM = """
import json, sys, time
import litellm

def ours(**more):
    return {"custom_llm_provider": "openai", **more}

with open(sys.argv[1], "rb") as content:
    file = litellm.create_file(file=content, purpose="fine-tune", **ours())
job = litellm.create_fine_tuning_job(
    model="gpt-4o-mini", training_file=file.id, hyperparameters={"n_epochs": 3}, **ours()
)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(0.5)
    job = litellm.retrieve_fine_tuning_job(fine_tuning_job_id=job.id, **ours())
assert job.status == "succeeded", job.error
ask = dict(
    model=f"openai/{job.fine_tuned_model}", messages=[{"role": "user", "content": "river number 7"}],
    max_tokens=20, temperature=0,
)
whole = litellm.completion(**ask).choices[0].message.content or ""
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ask, stream=True))
try:
    litellm.completion(**{**ask, "model": "openai/nowhere"})
    missing = False
except litellm.NotFoundError:
    missing = True
print(json.dumps([job.fine_tuned_model.startswith("ft:tiny:"), whole == streamed, missing]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """A server over a tiny base that the hosted name stands for."""
    home = tmp_path_factory.mktemp("clients")
    with Outside(home, "--base", str(tiny(home / "tiny")), "--alias", "gpt-4o-mini=tiny") as server:
        yield server


def installed(*command: str, folder: Path) -> None:
    """Run an installer; skip the test with its last words where it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{command[0]} did not end within 15 minutes")
    if done.returncode:
        pytest.skip(f"cannot install here: {(done.stderr or done.stdout).strip()[-300:]}")


def last_line(server: Outside, folder: Path, *command: str, **told: str) -> str:
    """What a client's program printed last, with two environment variables and `told`."""
    address = {"OPENAI_BASE_URL": f"{server.address}/v1", "OPENAI_API_KEY": "any"}
    done = subprocess.run(
        command, cwd=folder, env=environment(folder, **address, **told), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_node_sdk_goes_from_upload_to_chat(server: Outside, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("needs node and npm")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    installed(npm, "install", "--no-save", "openai", folder=tmp_path)
    (tmp_path / "client.mjs").write_text(NODE)
    said = last_line(server, tmp_path, node, "client.mjs", str(rows(tmp_path / "train.jsonl")))
    assert said == "[true,true,3,true,true,true]"


def test_litellm_goes_from_upload_to_chat(server: Outside, tmp_path: Path) -> None:
    """In an environment of its own: it wants another SDK than ours."""
    installed(sys.executable, "-m", "venv", "env", folder=tmp_path)
    python = str(tmp_path / "env" / "bin" / "python")
    installed(python, "-m", "pip", "install", "-q", "litellm", folder=tmp_path)
    (tmp_path / "client.py").write_text(LITELLM)
    # Without this it asks another host for a table of prices when it is imported.
    told = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    said = last_line(server, tmp_path, python, "client.py", str(rows(tmp_path / "train.jsonl")), **told)
    assert said == "[true, true, true]"
