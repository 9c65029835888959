// The models, in the table and in the two lists of the chat.

const kind = (id) => (!id.startsWith("ft:") ? "base" : id.includes(":ckpt-step-") ? "checkpoint" : "tuned");
let known = "";

async function refreshModels() {
  const { data } = await get("/v1/models");
  const order = ["base", "tuned", "checkpoint"];
  const models = data.map((model, i) => ({ ...model, i, kind: kind(model.id) }));
  models.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind) || (a.kind === "base" ? a.i - b.i : b.created - a.created));
  const ids = models.map((model) => model.id);
  if (ids.join("\n") === known) return;
  known = ids.join("\n");
  at("model-list").replaceChildren(...models.filter((model) => model.kind !== "checkpoint").map(row));
  const checkpoints = models.filter((model) => model.kind === "checkpoint").length;
  const some = `${checkpoints} checkpoint${checkpoints === 1 ? "" : "s"} can be chosen in the chat as well.`;
  const none = "No tuned model yet: one stands here when a job has succeeded.";
  write(at("models-note"), models.some((model) => model.kind === "tuned") ? (checkpoints ? some : "") : none);
  const tuned = models.find((model) => model.kind === "tuned")?.id ?? "";
  for (const [letter, first] of [["a", ids[0] ?? ""], ["b", tuned]]) {
    const chosen = at(`model-${letter}`);
    const before = chosen.value || first;
    const options = (letter === "b" ? ["", ...ids] : ids).map((id) => Object.assign(make("option", {}, id || "none"), { value: id }));
    chosen.replaceChildren(...options);
    chosen.value = ids.includes(before) ? before : "";
  }
  const program = part(at("program"), "first-base");
  if (ids.length) write(program, ids[0]);
}

function row(model) {
  const made = at("model-blank").content.querySelector("tr").cloneNode(true);
  made.dataset.model = model.id;
  write(part(made, "name"), model.id);
  write(part(made, "base"), model.x_weft_base);
  if (model.kind !== "base") part(made, "made").replaceChildren(moment(model.created));
  part(made, "ask").setAttribute("aria-label", `Ask ${model.id}`);
  return made;
}

at("model-list").addEventListener("click", (click) => {
  if (!click.target.matches("button")) return;
  const id = click.target.closest("tr").dataset.model;
  at(kind(id) === "base" ? "model-a" : "model-b").value = id;
  anew();
  at("question").focus();
});
