"""A fine-tuning job of three epochs, from file to model: `python epochs.py FILE`. Written for the hosted service.

What happens meanwhile goes to stderr; the one line on stdout is the name of the tuned model.
"""

import csv
import io
import sys
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI()
file = client.files.create(file=Path(sys.argv[1]), purpose="fine-tune")
job = client.fine_tuning.jobs.create(training_file=file.id, model="gpt-4o-mini", hyperparameters={"n_epochs": 3})
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)

for event in reversed(list(client.fine_tuning.jobs.list_events(job.id))):
    print(event.message, file=sys.stderr)
if job.status != "succeeded":
    sys.exit(f"{job.id} {job.status}: {job.error.message if job.error else 'no error was given'}")
for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id):
    print(f"step {checkpoint.step_number}: {checkpoint.fine_tuned_model_checkpoint}", file=sys.stderr)
table = client.files.content(job.result_files[0]).text
losses = [row["train_loss"] for row in csv.DictReader(io.StringIO(table))]
print(f"training loss from {losses[0]} to {losses[-1]} in {len(losses)} steps", file=sys.stderr)
print(job.fine_tuned_model)
