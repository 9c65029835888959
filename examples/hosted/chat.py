"""Ask a model once, then once more as a stream: `python chat.py MODEL QUESTION`. Written for the hosted service."""

import sys

from openai import OpenAI

client = OpenAI()
model, question = sys.argv[1:]
answer = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=100
)
print(answer.choices[0].message.content)
stream = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=100, stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
