// What all parts of the script stand on. They are one module, joined in the order that routes.py names.
// Foreign text is only ever written as text (textContent, attributes of our choice), never as markup.

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ud800-\udfff]/gu;

const at = (id) => document.getElementById(id);
const part = (root, name) => root.querySelector(`[data-is="${name}"]`);
const plain = (text) => String(text ?? "").replace(UNSEEN, "\ufffd");
const write = (element, text) => { if (element.textContent !== plain(text)) element.textContent = plain(text); };
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const count = (n) => n.toLocaleString("en-US");
const grown = (id) => at(id).content.firstElementChild.cloneNode(true);

function make(tag, attributes = {}, text = "") {
  const drawn = ["svg", "line", "polyline", "circle", "text"].includes(tag);
  const element = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== "") element.textContent = plain(text);
  return element;
}

function moment(seconds) {
  const when = new Date(seconds * 1000);
  const said = when.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  return make("time", { datetime: when.toISOString() }, said);
}
