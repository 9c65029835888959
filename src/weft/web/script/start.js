// What begins it all: the key, where one is needed, and a look every few seconds while somebody looks.

const POLL_MS = 5000;
let admitted = document.documentElement.dataset.keyless === "yes";
const closed = new Set(); // sections that this key may not see

async function section(name, look) {
  if (closed.has(name)) return;
  try {
    await look();
  } catch (problem) {
    if (problem.status !== 403) throw problem;
    closed.add(name);
    write(at(`${name}-said`), problem.message);
    at(`${name}-said`).hidden = false;
    if (name === "jobs") headline("Ready to answer.");
  }
  if (name === "jobs") at("first-job").hidden = jobs.size > 0 || closed.has("jobs");
}

function failed(problem) {
  if (problem.status !== 401) return trouble(problem);
  admitted = false;
  askForKey(key || document.documentElement.dataset.keyless === "no" ? problem.message : "A key has been made for this server: it is needed now.");
}

async function look() {
  try {
    await section("jobs", refresh);
    if (!known) await section("models", refreshModels);
    trouble(null);
    at("owned").hidden = false;
  } catch (problem) {
    failed(problem);
  }
}

at("keys").addEventListener("submit", async (sent) => {
  sent.preventDefault();
  key = at("key").value.trim();
  at("key").value = "";
  closed.clear();
  known = "";
  admitted = true;
  await look();
  if (!admitted) return at("key").focus();
  at("keys").hidden = true;
  at("keyed").hidden = false;
  at("headline").scrollIntoView({ block: "nearest" });
});
at("forget").addEventListener("click", () => location.reload());

document.addEventListener("visibilitychange", () => {
  if (document.hidden) following?.abort();
  else if (admitted) look();
});
addEventListener("resize", () => (following?.redraw ?? kept)?.());

for (;;) {
  if (admitted && !document.hidden) await look();
  await pause(POLL_MS);
}
