// One question to two models at once; each keeps its own conversation.

let asking = null; // while answers come: an AbortController
let histories = { a: [], b: [] };

async function answer(letter, text, box, signal) {
  const model = at(`model-${letter}`).value;
  const system = at("system").value;
  const history = histories[letter];
  const began = performance.now();
  let [said, finish, tokens] = ["", null, null];
  write(part(box, "name"), model);
  box.setAttribute("aria-busy", "true");
  try {
    const body = {
      model,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...history, { role: "user", content: text }],
      temperature: Number(at("temperature").value),
      max_completion_tokens: Number(at("most").value),
      stream: true,
      stream_options: { include_usage: true },
    };
    const headers = { "content-type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify(body), signal };
    for await (const chunk of events(await call("/v1/chat/completions", options))) {
      if (chunk.error) throw Object.assign(new Error(chunk.error.message), { status: 500 });
      said += chunk.choices[0]?.delta?.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      tokens = chunk.usage?.completion_tokens ?? tokens;
      write(part(box, "text"), said);
    }
    history.push({ role: "user", content: text }, { role: "assistant", content: said });
    const cut = finish === "length" ? "; cut off there" : "";
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    write(part(box, "after"), `${said ? "" : "An empty answer: "}${count(tokens)} tokens, ${seconds} s${cut}`);
  } catch (problem) {
    write(part(box, "after"), signal.aborted ? "Stopped." : problem.message);
    if (problem.status === 401) askForKey(problem.message);
  }
  box.removeAttribute("aria-busy");
}

async function ask() {
  const text = at("question").value;
  if (asking || !text.trim() || !at("asking").reportValidity()) return;
  const mine = (asking = new AbortController());
  const turn = grown("turn-blank");
  write(part(turn, "question"), text);
  at("turns").append(turn);
  at("question").value = "";
  at("send").disabled = true;
  at("stop").hidden = at("anew").hidden = false;
  const letters = ["a", "b"].filter((letter) => at(`model-${letter}`).value);
  const boxes = letters.map(() => grown("answer-blank"));
  part(turn, "answers").append(...boxes);
  at("asking").scrollIntoView({ block: "nearest" });
  await Promise.all(letters.map((letter, i) => answer(letter, text, boxes[i], mine.signal)));
  if (asking === mine) idle();
  at("asking").scrollIntoView({ block: "nearest" });
}

function idle() {
  asking = null;
  at("send").disabled = false;
  if (document.activeElement === at("stop")) at("question").focus();
  at("stop").hidden = true;
}

function anew() {
  asking?.abort();
  idle();
  histories = { a: [], b: [] };
  at("turns").replaceChildren();
  at("anew").hidden = true;
}

at("asking").addEventListener("submit", (sent) => { sent.preventDefault(); ask(); });
at("question").addEventListener("keydown", (pressed) => {
  if (pressed.key !== "Enter" || pressed.shiftKey || pressed.isComposing) return;
  pressed.preventDefault();
  ask();
});
at("stop").addEventListener("click", () => asking?.abort());
at("anew").addEventListener("click", () => { anew(); at("question").focus(); });
for (const id of ["model-a", "model-b", "system"]) at(id).addEventListener("change", anew);
