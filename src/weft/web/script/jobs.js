// The newest jobs: looked up every few seconds; the one that is open is followed through its stream of events.
// A sentence here is that of view.py; tests/web hold the two against each other.

const MOST_LOGGED = 200;
const FINAL = ["succeeded", "failed", "cancelled"];
const STATES = { validating_files: "checking files", queued: "waiting", running: "training" };

const jobs = new Map(); // id -> { job, latest, element, file }
const files = new Map(); // id -> name
let following = null; // of the job that is open: an AbortController
let whole = ""; // the job whose log was read to its end
let kept = null; // draws the curve of that one again

function headline(said) {
  write(at("headline"), said);
  document.title = `${said} · weft`;
}

function summary() {
  const of = (...states) => [...jobs.values()].filter(({ job }) => states.includes(job.status)).length;
  const [running, waiting] = [of("running"), of("queued", "validating_files")];
  const said = running ? `${running} job${running === 1 ? " is" : "s are"} training` : "Nothing is training";
  return waiting ? `${said}, ${waiting} wait${waiting === 1 ? "s" : ""}.` : `${said}.`;
}

function note(job, latest) {
  const where = latest ? `tep ${latest.step} of ${latest.total_steps}` : "";
  const loss = typeof latest?.train_loss === "number" ? `, training loss ${latest.train_loss.toFixed(3)}` : "";
  return {
    validating_files: "Its files are being checked.",
    queued: "It waits for a free slot.",
    running: where ? `S${where}${loss}.` : "Training begins.",
    paused: `Paused${where && ` at s${where}`}. client.fine_tuning.jobs.resume(…) lets it go on.`,
    succeeded: `It answers as ${job.fine_tuned_model}`,
    failed: job.error?.message ?? "No reason was given.",
    cancelled: "Cancelled; nothing was kept but its log.",
  }[job.status];
}

function facts(job, file) {
  const numbers = job.hyperparameters;
  const names = [["n_epochs", "Epochs"], ["batch_size", "Batch size"], ["learning_rate_multiplier", "Learning rate ×"]];
  return [
    ["Job", job.id], ["Method", job.method.type], ["Training file", file],
    ...names.filter(([name]) => numbers[name] != null).map(([name, said]) => [said, String(numbers[name])]),
    ["Seed", String(job.seed)], ["Created", moment(job.created_at)],
    ...(job.trained_tokens === null ? [] : [["Tokens trained on", count(job.trained_tokens)]]),
    ...(job.finished_at === null ? [] : [["Finished", moment(job.finished_at)]]),
    ...Object.entries(job.metadata ?? {}),
  ];
}

function show({ job, latest, element, file }) {
  const base = job.x_weft.base;
  element.dataset.status = job.status;
  write(part(element, "title"), job.user_provided_suffix || job.id);
  write(part(element, "state"), STATES[job.status] ?? job.status);
  write(part(element, "base"), job.model === base ? base : `${job.model} = ${base}`);
  write(part(element, "note"), note(job, latest));
  const steps = part(element, "progress");
  steps.hidden = !(latest && ["running", "paused"].includes(job.status));
  if (latest) Object.assign(steps, { max: latest.total_steps, value: latest.step });
  const list = facts(job, file).map(([name, said]) => {
    const fact = make("div");
    fact.append(make("dt", {}, name), make("dd"));
    fact.lastChild.append(typeof said === "string" ? plain(said) : said);
    return fact;
  });
  part(element, "facts").replaceChildren(...list);
}

async function fileName(id) {
  if (!files.has(id)) files.set(id, await get(`/v1/files/${encodeURIComponent(id)}`).then((f) => f.filename, () => id));
  return files.get(id);
}

async function latestOf(id) {
  const page = await get(`/v1/fine_tuning/jobs/${encodeURIComponent(id)}/events?limit=20`);
  return page.data.find((event) => event.type === "metrics")?.data ?? null;
}

async function take(job) {
  let one = jobs.get(job.id);
  const changed = one?.job.status !== job.status;
  if (!one) {
    const element = at(job.id) ?? Object.assign(grown("job-blank"), { id: job.id });
    if (!element.isConnected) at("job-list").prepend(element);
    element.addEventListener("toggle", () => (element.open ? follow(one) : leave(one)));
    one = { element, latest: null };
    jobs.set(job.id, one);
  }
  one.job = job;
  one.file = await fileName(job.training_file);
  const watched = following?.job === job.id;
  if (["running", "paused"].includes(job.status) && !watched) one.latest = await latestOf(job.id);
  show(one);
  if (changed && job.status === "running" && !document.querySelector(".job[open]")) one.element.open = true;
  if (one.element.open && !watched && whole !== job.id) follow(one);
  return changed;
}

async function refresh() {
  const page = await get("/v1/fine_tuning/jobs?limit=20");
  let changed = false;
  for (const job of page.data.reverse()) changed = (await take(job)) || changed;
  at("first-job").hidden = jobs.size > 0;
  at("more").hidden = !page.has_more;
  headline(summary());
  if (changed) await refreshModels();
}

function leave(one) {
  if (following?.job === one.job.id) following.abort();
  if (whole === one.job.id) whole = "";
}

async function follow(one) {
  if (following?.job === one.job.id || document.hidden) return;
  following?.abort();
  const mine = (following = Object.assign(new AbortController(), { job: one.job.id }));
  const final = FINAL.includes(one.job.status);
  const losses = { train: new Map(), valid: new Map(), total: 0 };
  const log = [];
  let drawing = 0;
  const draw = () => { drawing = 0; curve(one.element, losses); logged(one.element, log); show(one); };
  mine.redraw = () => curve(one.element, losses);
  mine.signal.addEventListener("abort", () => { if (following === mine) following = null; });
  try {
    const path = `/v1/fine_tuning/jobs/${encodeURIComponent(one.job.id)}/events?stream=true`;
    for await (const event of events(await call(path, { signal: mine.signal }))) {
      if (event.type === "metrics") {
        one.latest = event.data;
        losses.total = event.data.total_steps;
        if (Number.isFinite(event.data.train_loss)) losses.train.set(event.data.step, event.data.train_loss);
        if (Number.isFinite(event.data.valid_loss)) losses.valid.set(event.data.step, event.data.valid_loss);
      } else log.push(event);
      drawing ||= requestAnimationFrame(draw);
    }
    if (final) whole = one.job.id;
  } catch (problem) {
    if (!mine.signal.aborted) trouble(problem);
  }
  // The drawing of a followed job stays; while its tab is hidden nobody listens.
  if (!mine.signal.aborted) { following = null; kept = mine.redraw; if (!final) refresh().catch(failed); }
}

function logged(element, log) {
  const lines = log.slice(-MOST_LOGGED).reverse().map((event) => {
    const line = make("li", { class: event.level });
    line.append(moment(event.created_at), plain(event.message));
    return line;
  });
  part(element, "log").replaceChildren(...lines);
  part(element, "log").hidden = !lines.length;
}
