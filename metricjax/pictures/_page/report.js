"use strict";
// Draws the page from the JSON of #data. Names and texts come from the user: they only ever become
// text nodes and attributes, never markup.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent, (key, value) => {
  if (!value || typeof value.base64 !== "string") return value;
  const bytes = Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
  return new (value.type === "int32" ? Int32Array : Float32Array)(bytes.buffer);
});
const { count, classes, codes, retrieval, pairs, hubness } = data;
const near = Math.round(data.neighbors.length / count); // neighbors of each sample
const unit = data.distance.is_similarity ? "similarity" : "distance";
const dark = matchMedia("(prefers-color-scheme: dark)");

const percent = (share, digits = 1) => (share === null ? "–" : `${(100 * share).toFixed(digits)}%`);
const whole = (number) => number.toLocaleString("en-US");
const short = (number) => (number === null ? "–" : `${Number(number.toPrecision(3))}`);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// ---- Headline -----------------------------------------------------------------------------------

function headline() {
  document.title = data.title;
  $("title").textContent = data.title;
  const lone = retrieval.lone ? ` ${whole(retrieval.lone)} samples are alone in their class and are no queries.` : "";
  $("summary").textContent =
    `${whole(count)} samples of ${whole(classes.length)} classes, ${whole(data.features)} features, ` +
    `compared by ${data.distance.name}. Each sample searches among all others.${lone}`;
  const metric = (name) => {
    const [value, low, high] = retrieval.metrics[name];
    return [percent(value), `${percent(retrieval.confidence, 0)} interval ${percent(low)} to ${percent(high)}`];
  };
  const tile = (name, [value, note]) =>
    $("headline").append(make("div", {}, make("dt", {}, name), make("dd", {}, make("b", {}, value), make("small", {}, note))));
  tile("Precision@1", metric("precision_at_1"));
  tile("R-precision", metric("r_precision"));
  tile("MAP@R", metric("mean_average_precision_at_r"));
  tile("F1 of pairs", [percent(pairs.point.f1), `at a ${unit} of ${short(pairs.point.threshold)}`]);
  tile("Effective rank", [short(data.effective_rank), `of at most ${Math.min(count, data.features)}; 1 is collapsed`]);
  tile("Hubness", [short(hubness.skewness), "skewness of neighbor counts; 0 has no hubs"]);
  tile("Label error candidates", [whole(data.label_errors.total), `${percent(data.label_errors.total / count)} of the samples`]);
  $("intervals").textContent =
    `Intervals are bootstrap intervals of ${whole(retrieval.queries)} queries with ${retrieval.resamples} resamples.`;
}

// ---- Plots --------------------------------------------------------------------------------------

const WIDTH = 480, HEIGHT = 280, LEFT = 76, RIGHT = 24, TOP = 8, BOTTOM = 46;

function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const places = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) places.push(Number((i * step).toPrecision(12)));
  return places;
}

// `series`: {name, style, line: [[x, y]], band: [[x, low, high]], edges and heights of bars}.
// `marks`: {x, y, name}; without y a vertical line.
function plot({ title, note, x, y, series, marks = [] }) {
  const toX = (value) => LEFT + ((x.map || Number)(value) - (x.map || Number)(x.low)) / ((x.map || Number)(x.high) - (x.map || Number)(x.low)) * (WIDTH - LEFT - RIGHT);
  const toY = (value) => HEIGHT - BOTTOM - (value - y.low) / (y.high - y.low) * (HEIGHT - TOP - BOTTOM);
  const path = (points) => "M" + points.map(([a, b]) => `${toX(a).toFixed(1)},${toY(b).toFixed(1)}`).join("L");
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${note}` });
  for (const at of y.ticks || ticks(y.low, y.high)) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: toY(at), y2: toY(at) }));
    svg.append(draw("text", { x: LEFT - 6, y: toY(at) + 4, "text-anchor": "end" }, y.format(at)));
  }
  for (const at of x.ticks || ticks(x.low, x.high)) {
    svg.append(draw("line", { class: "grid", x1: toX(at), x2: toX(at), y1: TOP, y2: HEIGHT - BOTTOM }));
    svg.append(draw("text", { x: toX(at), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, x.format(at)));
  }
  const middle = (HEIGHT - BOTTOM + TOP) / 2;
  svg.append(draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x.label));
  svg.append(draw("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, y.label));
  for (const { style, line, band, edges, heights } of series) {
    const group = draw("g", { class: style });
    if (band) group.append(draw("path", { class: "area", d: path([...band.map(([a, low]) => [a, low]), ...band.map(([a, , high]) => [a, high]).reverse()]) }));
    const outline = heights && heights.flatMap((height, i) => [[edges[i], height], [edges[i + 1], height]]);
    if (outline) group.append(draw("path", { class: "area", d: path([[edges[0], y.low], ...outline, [edges[heights.length], y.low]]) }));
    group.append(draw("path", { class: "line", d: path(line || outline) }));
    svg.append(group);
  }
  for (const mark of marks) {
    if (mark.y === undefined) svg.append(draw("line", { class: "mark", x1: toX(mark.x), x2: toX(mark.x), y1: TOP, y2: HEIGHT - BOTTOM }));
    else svg.append(draw("circle", { class: "mark", cx: toX(mark.x), cy: toY(mark.y), r: 5 }));
  }
  const key = [...series.filter((s) => s.name).map((s) => [s.style, s.style === "two" ? "╌ " : "━ ", s.name]), ...marks.map((m) => ["text", m.y === undefined ? "│ " : "○ ", m.name])];
  const names = key.map(([style, sign, name]) => make("span", { class: style }, `${sign}${name}   `));
  $("plots").append(make("figure", {}, make("figcaption", {}, make("b", {}, title), make("small", {}, note), make("small", {}, ...names)), svg));
}

function plots() {
  const share = (low, high) => ({ low, high, format: (v) => percent(v, high - low < 0.05 ? 1 : 0) });
  const cuts = retrieval.cuts, at = (kind, k) => retrieval.metrics[`${kind}_at_${k}`];
  const curve = (kind, name, style) => ({
    name, style, line: cuts.map((k) => [k, at(kind, k)[0]]), band: cuts.map((k) => [k, at(kind, k)[1], at(kind, k)[2]]),
  });
  plot({
    title: "The first k neighbors: recall@k and precision@k",
    note: "Recall@k: any of the first k is of the query's class. Precision@k: the share of the k that are. Shaded: 95% interval.",
    x: { label: "k, number of neighbors (logarithmic)", low: 1, high: Math.max(2, cuts.at(-1)), ticks: cuts, map: Math.log2, format: String },
    y: { label: "share of queries or neighbors", ...share(0, 1) },
    series: [curve("recall", "recall@k", "one"), curve("precision", "precision@k", "two")],
  });
  const point = pairs.point, accepts = point.threshold !== null;
  const sampled = pairs.sampled < pairs.matches + pairs.others ? `${whole(pairs.sampled)} sampled pairs` : `all ${whole(pairs.sampled)} pairs`;
  const chosen = `Threshold ${accepts ? short(point.threshold) : "that accepts nothing"}: ${pairs.chosen_by}, chosen on ${sampled} of these samples.`;
  plot({
    title: "Pairs accepted by a threshold: precision and recall",
    note: `${chosen} Precision ${percent(point.precision)}, recall ${percent(point.tmr)}, false matches ${percent(point.fmr, 2)}.`,
    x: { label: "recall of matches", ...share(0, 1) },
    y: { label: "precision of accepted pairs", ...share(0, 1) },
    series: [{ style: "one", name: "every threshold", line: pairs.recall.map((r, i) => [r, pairs.precision[i]]) }],
    marks: accepts ? [{ x: point.tmr, y: point.precision, name: "the threshold" }] : [],
  });
  const top = 1.05 * Math.max(...pairs.match_shares, ...pairs.other_shares), edges = pairs.edges;
  plot({
    title: `Pairs by ${unit}: matches and other pairs`,
    note: `${chosen} ${whole(pairs.matches)} pairs match, ${whole(pairs.others)} do not.`,
    x: { label: unit, low: edges[0], high: edges.at(-1), format: short },
    y: { label: "share of the pairs of its kind", ...share(0, top) },
    series: [
      { name: "matches", style: "one", edges, heights: pairs.match_shares },
      { name: "other pairs", style: "two", edges, heights: pairs.other_shares },
    ],
    marks: accepts ? [{ x: point.threshold, name: "the threshold" }] : [],
  });
  const counts = hubness.samples_by_count, log = (v) => Math.log10(v + 0.5);
  const most = counts.reduce((a, b) => Math.max(a, b), 0); // `Math.max(...)` takes few arguments
  plot({
    title: `Hubness: how often samples are among the ${near} nearest of others`,
    note: `Skewness ${short(hubness.skewness)}. ${percent(hubness.never)} of the samples are never a neighbor; the largest hub is one ${whole(counts.length - 1)} times. The mean is ${near}.`,
    x: { label: `times among the ${near} nearest`, low: 0, high: counts.length, format: short },
    y: { label: "samples (logarithmic)", low: log(0), high: log(1.3 * most), ticks: [1, 10, 100, 1e3, 1e4, 1e5].filter((v) => v <= most).map(log), format: (v) => short(10 ** v - 0.5) },
    series: [{ style: "one", edges: [...counts.keys(), counts.length], heights: counts.map(log) }],
    marks: [{ x: near, name: "the mean" }],
  });
}

// ---- Cards and tables ---------------------------------------------------------------------------

const { rows: shown, images, texts } = data.samples;
const place = new Map(Array.from(shown, (row, i) => [row, i]));

function look(row) {
  const i = place.get(row), nodes = [];
  if (i !== undefined && images) nodes.push(make("img", { src: images[i], alt: "" }));
  if (i !== undefined && texts) nodes.push(make("span", {}, texts[i]));
  return nodes;
}

function card(row, kind, note = "") {
  const name = `${classes[codes[row]]}`;
  const nodes = [...look(row), make("b", {}, name), make("small", {}, `sample ${row}`)];
  if (note) nodes.push(make("small", {}, note));
  const show = () => { select(row); $("map").scrollIntoView({ block: "nearest" }); };
  return make("button", { class: `card ${kind}${texts ? " texts" : ""}`, onclick: show }, ...nodes);
}

function neighbors(row) {
  return Array.from({ length: near }, (_, i) => row * near + i).map((i) => {
    const other = data.neighbors[i], kind = codes[other] === codes[row] ? "match" : "other";
    return card(other, kind, `${unit} ${short(data.distances[i])}`);
  });
}

const classButton = (...which) => (code) =>
  make("button", { onclick: () => { choose(which.length ? which : [code]); $("map").scrollIntoView({ block: "nearest" }); } }, classes[code]);

// `columns`: {name, values, show, text}. Sorts by a column; a click again turns the order around.
const MOST_ROWS = 500; // of a table: more would be slow to draw, and nobody reads them
function table(target, columns) {
  const order = Array.from(columns[0].values, (_, i) => i), body = make("tbody");
  const heads = columns.map((column, i) =>
    make("th", { scope: "col", ...(column.text ? { class: "name" } : {}) }, make("button", { onclick: () => sort(i) }, column.name)));
  function sort(i) {
    const { values, text } = columns[i];
    const before = heads[i].getAttribute("aria-sort"), up = before ? before === "descending" : Boolean(text);
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[i].setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => (text ? text(values[row], row) : values[row]);
    const compare = (a, b) => (text ? key(a).localeCompare(key(b), "en", { numeric: true }) : key(a) - key(b));
    const missing = (row) => key(row) === null; // always last
    order.sort((a, b) => missing(a) - missing(b) || (up ? compare(a, b) : compare(b, a)) || a - b);
    show();
  }
  function show() {
    body.replaceChildren(...order.slice(0, MOST_ROWS).map((row) => make("tr", {}, ...columns.map((column) =>
      make("td", column.text ? { class: "name" } : {}, column.show(column.values[row], row))))));
  }
  const cut = order.length > MOST_ROWS ? [make("p", { class: "note" }, `The first ${MOST_ROWS} of ${whole(order.length)} rows in this order.`)] : [];
  $(target).append(make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)), ...cut);
  show();
}

function lists() {
  const { size, other, share, ...metrics } = data.per_class;
  const column = (name, values) => ({ name, values, show: (v) => percent(v) });
  const name = (code) => classes[code];
  table("classes", [
    { name: "class", values: [...classes.keys()], text: name, show: classButton() },
    { name: "samples", values: size, show: whole },
    column("precision@1", metrics.precision_at_1),
    column("R-precision", metrics.r_precision),
    column("MAP@R", metrics.mean_average_precision_at_r),
    { name: "confused with", values: share, show: (v, row) => (other[row] < 0 ? "–" : `${classes[other[row]]} (${percent(v)})`) },
  ]);
  const confused = data.confusions;
  $("confusions-note").textContent = confused.of.length
    ? `The share of the ${near} nearest neighbors of a class that are of another class. Click a class to color both in the map.`
    : `All of the ${near} nearest neighbors of every sample are of its own class.`;
  if (confused.of.length) table("confusions", [
    { name: "class", values: confused.of, text: name, show: (code, row) => classButton(code, confused.with[row])(code) },
    { name: "its neighbors are", values: confused.with, text: name, show: (code, row) => classButton(confused.of[row], code)(code) },
    column("share", confused.share),
    { name: "neighbors", values: confused.count, show: whole },
  ]);
  const worst = data.worst;
  $("worst").append(...worst.rows.map((row, i) =>
    make("div", { class: "cards" }, card(row, "query", `MAP@R ${percent(worst.scores[i])}`), ...neighbors(row))));
  const errors = data.label_errors;
  $("errors-note").textContent = errors.total
    ? `More than half of the ${near} nearest neighbors have one same other label. ${whole(errors.total)} samples, those with the most votes first.`
    : `No sample has one same other label at more than half of its ${near} nearest neighbors.`;
  $("errors").append(...errors.rows.map((row, i) => card(row, "other", `${errors.votes[i]} of ${near}: ${classes[errors.labels[i]]}`)));
  $("hubs-note").textContent = `The samples that are most often among the ${near} nearest of others; the mean is ${near} times.`;
  $("hubs").append(...hubness.rows.map((row, i) => card(row, "query", `${whole(hubness.counts[i])} times, ${whole(hubness.wrong[i])} in another class`)));
}

// ---- Map ----------------------------------------------------------------------------------------

const PALETTE = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#7a7a00"],
  dark: ["#4da3db", "#f07f3c", "#2bc79a", "#e29cc3", "#e6b020", "#9ad4f5", "#c77dff", "#c9c94b"],
};
const canvas = $("map"), pen = canvas.getContext("2d");
const view = { x: 0, y: 0, scale: 1 }; // the center, in units of the plane, and the zoom
const bounds = (axis) => {
  let low = Infinity, high = -Infinity;
  for (let i = axis; i < 2 * count; i += 2) { low = Math.min(low, data.plane[i]); high = Math.max(high, data.plane[i]); }
  return [(low + high) / 2, Math.max(high - low, 1e-6)];
};
const [[centerX, spanX], [centerY, spanY]] = [bounds(0), bounds(1)];
let chosen = []; // classes that have colors while all others are gray; none: all have colors
let selected = -1;

function screen(row) { // the position of a sample, in pixels of the page, from the map's corner
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = view.scale * Math.min(width / spanX, height / spanY) / 1.08;
  return [width / 2 + (data.plane[2 * row] - view.x) * scale, height / 2 - (data.plane[2 * row + 1] - view.y) * scale];
}

function color(code) {
  const theme = dark.matches ? "dark" : "light", few = chosen.length || classes.length;
  const i = chosen.length ? chosen.indexOf(code) : code;
  if (few <= PALETTE[theme].length) return PALETTE[theme][i];
  const lightness = (dark.matches ? [58, 68, 78] : [32, 42, 52])[code % 3]; // 137.5: neighbors in the list differ most
  return `hsl(${(code * 137.508) % 360} 75% ${lightness}%)`;
}

function paint() {
  const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const radius = (count > 5000 ? 1.7 : count > 500 ? 2.6 : 3.6) * view.scale ** 0.3;
  const colored = new Set(chosen), gray = dark.matches ? "#4a525b" : "#d3d7dc";
  const dots = (rows, size, style) => {
    pen.fillStyle = style;
    pen.beginPath();
    for (const row of rows) {
      const [x, y] = screen(row);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      pen.moveTo(x + size, y);
      pen.arc(x, y, size, 0, 7);
    }
    pen.fill();
  };
  if (chosen.length) dots(rest(colored), radius, gray);
  for (const code of chosen.length ? chosen : classes.keys()) dots(members[code], chosen.length ? radius + 0.6 : radius, color(code));
  if (selected >= 0) mark(radius);
}

const members = classes.map(() => []);
codes.forEach((code, row) => members[code].push(row));
function* rest(colored) { for (let row = 0; row < count; row++) if (!colored.has(codes[row])) yield row; }

function mark(radius) {
  const style = getComputedStyle(document.documentElement), named = (name) => style.getPropertyValue(name);
  const [x, y] = screen(selected);
  for (let i = selected * near; i < (selected + 1) * near; i++) {
    const other = data.neighbors[i];
    const [a, b] = screen(other), same = codes[other] === codes[selected];
    pen.strokeStyle = named(same ? "--good" : "--two");
    pen.setLineDash(same ? [] : [4, 3]);
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(a, b);
    pen.moveTo(a + radius + 3, b);
    pen.arc(a, b, radius + 3, 0, 7);
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.strokeStyle = named("--text");
  pen.lineWidth = 2.5;
  pen.beginPath();
  pen.arc(x, y, radius + 5, 0, 7);
  pen.stroke();
}

function nearest(x, y) { // the sample at a position, within 14 pixels, or -1
  let best = -1, least = 14 ** 2;
  for (let row = 0; row < count; row++) {
    const [a, b] = screen(row), far = (a - x) ** 2 + (b - y) ** 2;
    if (far < least && (!chosen.length || chosen.includes(codes[row]) || far < 9)) [best, least] = [row, far];
  }
  return best;
}

function select(row) {
  selected = row;
  $("row").value = row < 0 ? "" : row;
  const hint = make("p", { class: "note" }, "Click a sample to see its nearest neighbors.");
  $("details").replaceChildren(...(row < 0 ? [hint] : [
    make("h3", {}, `Sample ${row} and its ${near} nearest neighbors`),
    make("div", { class: "cards" }, card(row, "query"), ...neighbors(row)),
  ]));
  paint();
}

function choose(which) {
  chosen = which;
  const most = 12, named = chosen.length ? chosen : [...classes.keys()];
  const dot = (code) => make("span", {}, make("i", { style: `background: ${color(code)}` }), classes[code]);
  const all = !chosen.length && classes.length > most;
  $("legend").replaceChildren(...(all ? [`Each of the ${whole(classes.length)} classes has its own hue. Type a name to see a class against gray.`] : named.slice(0, most).map(dot)),
    named.length > most && !all ? `and ${named.length - most} more` : "");
  if (document.activeElement !== $("class")) $("class").value = chosen.map((code) => classes[code]).join(", ");
  paint();
}

function search(text) { // the class of that name, or else all whose names contain the text
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const exact = [...classes.keys()].filter((code) => classes[code].toLowerCase() === wanted);
  return exact.length ? exact : [...classes.keys()].filter((code) => classes[code].toLowerCase().includes(wanted));
}

function map() {
  const kept = shown.length && shown.length < count ? ` Images and texts of ${whole(shown.length)} of ${whole(count)} samples are on this page.` : "";
  $("map-note").textContent = `Hover a sample to see it. Click it to see its ${near} nearest neighbors: solid lines lead to its own class, dashed lines to others. Drag to move a zoomed map. Distances in the plane are approximate; neighbors are exact.${kept}`;
  $("axes").textContent = `→ ${data.axes[0]} · ↑ ${data.axes[1]}`;
  $("class-names").append(...classes.slice(0, 2000).map((name) => make("option", { value: name })));
  const position = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  let start = null, moved = false;
  canvas.addEventListener("pointerdown", (event) => { start = position(event); moved = false; });
  canvas.addEventListener("pointerup", () => { start = null; });
  canvas.addEventListener("pointercancel", () => { start = null; });
  canvas.addEventListener("click", (event) => { if (!moved) select(nearest(...position(event))); });
  canvas.addEventListener("pointerleave", () => { $("hover").hidden = true; });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = position(event);
    if (start && view.scale > 1 && event.buttons) {
      const scale = view.scale * Math.min(canvas.clientWidth / spanX, canvas.clientHeight / spanY) / 1.08;
      if (moved || Math.hypot(x - start[0], y - start[1]) > 4) {
        view.x -= (x - start[0]) / scale;
        view.y += (y - start[1]) / scale;
        [start, moved] = [[x, y], true];
        paint();
      }
      return;
    }
    hover(nearest(x, y));
  });
  const zoom = (scale) => {
    if (selected >= 0 && scale > view.scale) [view.x, view.y] = [data.plane[2 * selected], data.plane[2 * selected + 1]];
    view.scale = scale < 1.01 ? 1 : Math.min(scale, 64); // 1.6 * 1.6 / 1.6 / 1.6 is not 1
    if (view.scale === 1) [view.x, view.y] = [centerX, centerY];
    canvas.classList.toggle("zoomed", view.scale > 1); // else a finger scrolls the page
    paint();
  };
  $("closer").addEventListener("click", () => zoom(view.scale * 1.6));
  $("wider").addEventListener("click", () => zoom(view.scale / 1.6));
  $("all").addEventListener("click", () => zoom(1));
  $("class").addEventListener("input", (event) => choose(search(event.target.value)));
  $("row").addEventListener("change", (event) => {
    const row = event.target.valueAsNumber;
    select(Number.isInteger(row) && row >= 0 && row < count ? row : -1);
  });
  dark.addEventListener("change", () => choose(chosen));
  new ResizeObserver(paint).observe(canvas);
  [view.x, view.y] = [centerX, centerY];
}

function hover(row) {
  $("hover").hidden = row < 0;
  if (row < 0) return;
  $("hover").replaceChildren(...look(row), make("b", {}, classes[codes[row]]), ` sample ${row}`);
  const [x, y] = screen(row), right = x > canvas.clientWidth / 2;
  $("hover").style.left = right ? "" : `${x + 12}px`;
  $("hover").style.right = right ? `${canvas.clientWidth - x + 12}px` : "";
  $("hover").style.top = `${Math.max(0, y - 20)}px`;
}

headline();
plots();
lists();
map();
choose([]);
select(-1);
