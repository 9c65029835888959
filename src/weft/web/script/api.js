// How the page speaks with the API: requests with the key, streams of events, and what is said when that fails.
// The key is in `key` alone: no storage, no cookie, no address ever holds it.

let key = "";

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const lost = (cause) => { throw Object.assign(new Error("The server does not answer.", { cause }), { status: 0 }); };
  const answer = await fetch(path, { ...options, headers }).catch(lost);
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw Object.assign(new Error(body?.error?.message ?? `The server answered ${answer.status}.`), { status: answer.status });
}

const get = async (path, options) => (await call(path, options)).json();

async function* events(answer) {
  let rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) throw Object.assign(new Error("The server went away in the middle of an answer."), { status: 0 });
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.trimEnd() === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

function trouble(problem) {
  if (problem && problem.status === undefined) console.error(problem);
  write(at("trouble"), problem ? problem.message + (problem.status === 0 ? " This page keeps trying." : "") : "");
  at("trouble").hidden = !problem;
}

function askForKey(said) {
  key = "";
  following?.abort();
  at("keys").hidden = false;
  at("owned").hidden = at("keyed").hidden = true;
  headline("This server asks for a key.");
  trouble(said && { status: 401, message: said });
}
