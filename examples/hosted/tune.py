"""Upload examples and start a job: `python tune.py FILE`; prints the job's id. Written for the hosted service."""

import sys
from pathlib import Path

from openai import OpenAI

client = OpenAI()
file = client.files.create(file=Path(sys.argv[1]), purpose="fine-tune")
job = client.fine_tuning.jobs.create(training_file=file.id, model="gpt-4o-mini")
print(job.id)
