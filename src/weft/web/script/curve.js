// The curve of one job: losses in nats per token over steps, drawn at the size it has on the screen.

function thinned(points, most) {
  const size = Math.ceil(points.length / most) || 1;
  const groups = Array.from({ length: Math.ceil(points.length / size) }, (_, i) => points.slice(i * size, (i + 1) * size));
  const mean = (group, place) => group.reduce((sum, point) => sum + point[place], 0) / group.length;
  return groups.map((group) => [mean(group, 0), mean(group, 1)]);
}

function round(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= step);
}

function curve(element, { train, valid, total }) {
  const ordered = (points) => [...points].sort((a, b) => a[0] - b[0]);
  const [learned, looked] = [ordered(train), ordered(valid)];
  const figure = part(element, "curve");
  figure.hidden = learned.length + looked.length < 2;
  if (figure.hidden) return;
  const place = part(element, "drawing");
  const [width, height, left, below] = [place.clientWidth, place.clientHeight, 34, 20];
  const step = round(Math.max(...[...learned, ...looked].map(([, loss]) => loss), 1e-6) / 4);
  const top = step * Math.ceil(Math.max(...[...learned, ...looked].map(([, loss]) => loss)) / step) || step;
  const x = (s) => left + ((width - left - 6) * s) / Math.max(total, 1);
  const y = (loss) => 8 + (height - below - 8) * (1 - loss / top);
  const line = (points) => points.map(([s, loss]) => `${x(s).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  const said = [];
  const ends = (name, points) => {
    const [first, last] = [points[0][1], points.at(-1)[1]].map((loss) => loss.toFixed(3));
    said.push(`${name} ${last}${points.length > 1 ? `, from ${first}` : ""}`);
  };
  if (learned.length) ends("training", learned);
  if (looked.length) ends("validation", looked);
  const svg = make("svg", { role: "img", "aria-label": `Loss over ${total} steps: ${said.join("; ")}` });
  const places = step < 0.1 ? 2 : 1;
  for (let loss = 0; loss <= top + step / 2; loss += step) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - 6, y1: y(loss), y2: y(loss) }));
    svg.append(make("text", { x: left - 8, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(places)));
  }
  svg.append(make("text", { x: left, y: height - 3 }, "step 0"));
  svg.append(make("text", { x: width - 6, y: height - 3, "text-anchor": "end" }, count(total)));
  svg.append(make("polyline", { class: "train", points: line(thinned(learned, width / 3)) }));
  svg.append(make("polyline", { class: "valid", points: line(looked) }));
  if (looked.length < 40) for (const [s, loss] of looked) svg.append(make("circle", { class: "dot", cx: x(s), cy: y(loss), r: 3.5 }));
  place.replaceChildren(svg);
  const legend = said.map((text, i) => make("span", { class: i || !learned.length ? "key strong" : "key" }, text));
  part(element, "legend").replaceChildren(...legend, "Loss in nats per token.");
}
