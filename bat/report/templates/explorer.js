"use strict";
const { classes, tile, large, perRow, splits, influence, trainInfluence, methods } = unpacked(window.DATA);
const $ = (id) => document.getElementById(id);
const grid = $("grid"), dialog = $("sample");
const NAMES = { train: "training sample", test: "test sample" };
const LARGE = 256, THUMB = 64, GAP = 8, CAPTION = 40;

/* what is shown: rows of the split that pass the filter, of them those that are brushed, and the active place */
const state = { split: "train", kept: [], shown: [], brushed: null, active: 0 };

for (const [method, found] of Object.entries(methods))
  for (const metric of ["clean", "robust"])
    lazily(splits.test.columns, `${metric} right, ${method}`, () => found[metric].map((count) => count / found.models));
for (const split of Object.values(splits)) {
  const { file } = split;
  lazily(split.columns, "index", () => split.index);
  if (file) lazily(split, "file", () => file.name.map((name, row) => file.folders[file.folder[row]] + name));
}

const column = (select) => splits[state.split].columns[$(select).value];
const scaled = (to, size = tile) => Math.max(1, Math.round(to / Math.max(...size)));
const written = (value) => (value === null ? "none" : Number.isInteger(value) ? String(value) : value.toFixed(3));

/* what takes time to compute is computed when it is first read */
function lazily(object, name, compute) {
  const define = (how) => Object.defineProperty(object, name, { enumerable: true, configurable: true, ...how });
  define({ get: () => define({ value: compute() })[name] });
  return object;
}

/* numbers come as bat.report.explorer packs them */
function unpacked(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return typeof value[0] === "object" ? value.map(unpacked) : value;
  if (!("base64" in value))
    return Object.entries(value).reduce((made, [name, part]) => lazily(made, name, () => unpacked(part)), {});
  const characters = atob(value.base64), bytes = new Uint8Array(characters.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = characters.charCodeAt(place);
  const numbers = Array.from(new globalThis[value.type](bytes.buffer)), { scale, none } = value;
  return scale ? numbers.map((number) => (number === none ? null : number / scale)) : numbers;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    name in made && name !== "role" ? (made[name] = value) : made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function image(split, row, size) {
  const own = size === LARGE ? large : tile, ending = own.join() === tile.join() ? ".png" : "-large.jpeg";
  const scale = scaled(size, own), [width, height] = own.map((pixels) => pixels * scale);
  const sheet = Math.floor(row / perRow ** 2), place = row % perRow ** 2;
  const rows = Math.min(perRow, Math.ceil((splits[split].index.length - sheet * perRow ** 2) / perRow));
  const made = element("div", { className: "image" });
  Object.assign(made.style, {
    width: `${width}px`,
    height: `${height}px`,
    backgroundImage: `url(sheets/${split}-${sheet}${ending})`,
    backgroundSize: `${perRow * width}px ${rows * height}px`,
    backgroundPosition: `${-(place % perRow) * width}px ${-Math.floor(place / perRow) * height}px`,
  });
  return made;
}

/* -- filter and order */

function options(select, names, chosen) {
  $(select).replaceChildren(...names.map(([value, text]) => element("option", { value }, text)));
  if (chosen !== undefined && names.some(([value]) => value === chosen)) $(select).value = chosen;
}

function choose(split) {
  state.split = split;
  const names = Object.keys(splits[split].columns), pairs = names.map((name) => [name, name]);
  const first = (...wanted) => wanted.find((name) => names.includes(name)) ?? names[0];
  const memorized = first("memorization", "memorization of its strongest influence");
  options("sort", pairs, first("memorization", "max influence"));
  options("x", pairs, first("clean right", "right if left out", memorized));
  options("y", pairs, first("robust right", "right if trained on", memorized));
  options("colour", pairs, memorized);
  update();
}

function update() {
  const { index, label, file } = splits[state.split], values = column("sort");
  const [low, high] = ["low", "high"].map((id) => $(id).valueAsNumber);
  const chosen = $("class").value, text = $("text").value.trim().toLowerCase();
  const passes = (row) =>
    (chosen === "" || label[row] === Number(chosen)) &&
    (Number.isNaN(low) || (values[row] !== null && values[row] >= low)) &&
    (Number.isNaN(high) || (values[row] !== null && values[row] <= high)) &&
    (text === "" || String(index[row]) === text || (file?.[row] ?? "").toLowerCase().includes(text));
  const direction = Number($("order").value);
  state.kept = index.map((_, row) => row).filter(passes);
  /* samples without a value come last, whatever the order */
  state.kept.sort((a, b) => {
    const [one, other] = [values[a], values[b]];
    return one === null || other === null ? (one === null) - (other === null) : direction * (one - other);
  });
  brush(null);
  plotted();
}

function brush(rows) {
  state.brushed = rows;
  state.shown = rows ? state.kept.filter((row) => rows.has(row)) : state.kept;
  state.active = 0;
  $("all").hidden = !rows;
  $("count").textContent = `${state.shown.length} of ${splits[state.split].index.length} ${NAMES[state.split]}s`;
  grid.scrollTop = 0;
  draw();
}

/* -- the grid: only the thumbnails that are seen exist */

function layout() {
  const width = Math.max(tile[0] * scaled(THUMB), 64) + GAP, height = tile[1] * scaled(THUMB) + CAPTION + GAP;
  return { width, height, across: Math.max(1, Math.floor((grid.clientWidth - GAP) / width)) };
}

function draw() {
  const { width, height, across } = layout(), { split, shown } = state, values = column("sort");
  const first = Math.max(0, Math.floor(grid.scrollTop / height) - 1) * across;
  const last = Math.min(shown.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / height) + 1) * across);
  const made = [];
  for (let place = first; place < last; place++) {
    const row = shown[place], name = classes[splits[split].label[row]];
    const thumbnail = element("div", { role: "option", id: `place-${place}`, title: `${NAMES[split]} ${splits[split].index[row]}` },
      image(split, row, THUMB), element("span", {}, name), element("span", { className: "faint" }, written(values[row])));
    thumbnail.setAttribute("aria-selected", place === state.active);
    thumbnail.setAttribute("aria-posinset", place + 1);
    thumbnail.setAttribute("aria-setsize", shown.length);
    thumbnail.dataset.place = place;
    thumbnail.style.cssText = `left:${GAP + (place % across) * width}px;top:${Math.floor(place / across) * height}px;` +
      `width:${width - 4}px;height:${height - 4}px`;
    made.push(thumbnail);
  }
  const end = element("div");
  end.style.height = `${Math.ceil(shown.length / across) * height}px`;
  grid.replaceChildren(end, ...made);
  if (shown.length) grid.setAttribute("aria-activedescendant", `place-${state.active}`);
  else grid.removeAttribute("aria-activedescendant");
}

function activate(place) {
  const { height, across } = layout();
  state.active = Math.max(0, Math.min(state.shown.length - 1, place));
  const top = Math.floor(state.active / across) * height;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + height > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + height - grid.clientHeight;
  draw();
}

function pressed(event) {
  const { height, across } = layout(), page = across * Math.max(1, Math.floor(grid.clientHeight / height));
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -page, PageDown: page };
  if (event.key in steps) activate(state.active + steps[event.key]);
  else if (event.key === "Home") activate(0);
  else if (event.key === "End") activate(state.shown.length - 1);
  else if (event.key === "Enter" && state.shown.length) show(state.split, state.shown[state.active]);
  else return;
  event.preventDefault();
}

/* -- one sample, large */

function neighbours(heading, pairs, from, to, split, row) {
  const found = pairs[from].flatMap((other, place) => (other === row ? [place] : []));
  if (!found.length) return [];
  const buttons = found.sort((a, b) => pairs.value[b] - pairs.value[a]).slice(0, 12).map((place) => {
    const other = pairs[to][place], value = written(pairs.value[place]) + (pairs.significant[place] ? "*" : "");
    const name = `${NAMES[split]} ${splits[split].index[other]}, influence ${value}`;
    return element("button", { type: "button", title: name, ariaLabel: name, onclick: () => show(split, other) },
      image(split, other, THUMB), value);
  });
  return [element("h3", {}, heading), element("div", { className: "row" }, ...buttons)];
}

function attacked(row) {
  const rows = Object.entries(methods).map(([method, found]) => {
    const broken = Object.entries(found.brokenBy).filter(([, counts]) => counts[row]);
    const cells = ["clean", "pgd", "robust"].map((metric) => `${found[metric][row]} of ${found.models}`);
    cells.push(broken.map(([attack, counts]) => `${attack} (${counts[row]})`).join(", ") || (found.clean[row] ? "none" : "wrong without attack"));
    return element("tr", {}, element("th", { scope: "row" }, method), ...cells.map((cell) => element("td", {}, cell)));
  });
  if (!rows.length) return [];
  const heads = ["method", "right: clean", "after PGD", "after all attacks", "broken by, models"];
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  return [element("h3", {}, "Models of the last epoch that are right"),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))];
}

function facts(split, row) {
  const { columns, takenFor, interval, file } = splits[split], list = element("dl");
  const add = (name, text) => list.append(element("dt", {}, name), element("dd", {}, text));
  if (takenFor && takenFor[row] >= 0) add("taken for", classes[takenFor[row]]);
  for (const name of Object.keys(columns)) {
    if (name === "index" || /^(clean|robust) right, /.test(name)) continue;
    const values = columns[name];
    if (values[row] === null) continue;
    const ends = name === "memorization" && interval ? ` [${interval.map((end) => written(end[row])).join(", ")}]` : "";
    add(name, name.endsWith("atypical") ? (values[row] ? "yes" : "no") : written(values[row]) + ends);
  }
  if (file) add("file", file[row]);
  return list;
}

function show(split, row) {
  const place = split === state.split ? state.shown.indexOf(row) : -1;
  const step = (by) => () => {
    activate(place + by);
    show(split, state.shown[state.active]);
  };
  const button = (text, onclick, disabled = false) => element("button", { type: "button", onclick, disabled }, text);
  const title = `${NAMES[split]} ${splits[split].index[row]}: class ${classes[splits[split].label[row]]}`;
  const ends = [place < 1, place < 0 || place === state.shown.length - 1];
  const close = button("Close", () => dialog.close());
  dialog.replaceChildren(
    element("div", { className: "top" },
      element("h2", { id: "name" }, title[0].toUpperCase() + title.slice(1)),
      element("nav", { ariaLabel: "Samples" }, button("Previous", step(-1), ends[0]), button("Next", step(1), ends[1]), close)),
    element("div", { className: "large" }, image(split, row, LARGE), facts(split, row)),
    ...(split === "train"
      ? [...neighbours("Training samples that influence it", trainInfluence, "to", "from", "train", row),
         ...neighbours("Test samples that it influences", influence, "from", "to", "test", row)]
      : [...neighbours("Training samples that influence it", influence, "to", "from", "train", row), ...attacked(row)]));
  dialog.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && !ends[by === -1 ? 0 : 1]) step(by)();
  };
  if (!dialog.open) dialog.showModal();
  close.focus();
}

/* -- the scatter plot, whose selection filters the grid */

let plot, source, mapper, bar;

function spread(values, irrational) {
  /* equal values are moved by up to a third of the smallest step, in a fixed pseudo-random order */
  const distinct = [...new Set(values.filter((value) => value !== null))].sort((a, b) => a - b);
  if (distinct.length < 2 || distinct.length > 60) return values;
  const step = Math.min(...distinct.slice(1).map((value, place) => value - distinct[place]));
  return values.map((value, place) => (value === null ? null : value + step * 0.66 * (((place * irrational) % 1) - 0.5)));
}

function plotted() {
  if (!plot) return;
  const rows = state.kept, of = (values) => rows.map((row) => values[row] ?? NaN);
  const [x, y] = [["x", 0.754877666], ["y", 0.569840291]].map(([id, irrational]) => of(spread(column(id), irrational)));
  source.selected.indices = [];
  source.data = { x, y, colour: of(column("colour")), row: rows };
  const values = column("colour").filter((value) => value !== null);
  mapper.setv({ low: values.reduce((a, b) => Math.min(a, b), 0), high: values.reduce((a, b) => Math.max(a, b), 0.001) });
  plot.xaxes[0].axis_label = $("x").value;
  plot.yaxes[0].axis_label = $("y").value;
  bar.title = $("colour").value;
}

function painted() {
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  plot.setv({ background_fill_color: colour("--card"), border_fill_color: colour("--ground"), outline_line_color: colour("--line") });
  for (const axis of [...plot.xaxes, ...plot.yaxes])
    axis.setv({ axis_label_text_color: colour("--text"), major_label_text_color: colour("--text"), axis_line_color: colour("--faint"),
      major_tick_line_color: colour("--faint"), minor_tick_line_color: null, axis_label_text_font_style: "normal" });
  for (const lines of [...plot.xgrids, ...plot.ygrids]) lines.grid_line_color = colour("--line");
  bar.setv({ background_fill_color: colour("--ground"), title_text_color: colour("--text"), major_label_text_color: colour("--text"),
    title_text_font_style: "normal" });
}

function build() {
  Bokeh.set_log_level("error"); // it warns where no sample passes the filter
  const tools = "box_select,lasso_select,pan,wheel_zoom,reset", active_drag = "box_select";
  plot = Bokeh.Plotting.figure({ tools, active_drag, toolbar_location: "above", sizing_mode: "stretch_both", min_height: 220 });
  plot.toolbar.logo = null;
  for (const range of [plot.x_range, plot.y_range]) range.default_span = 0.1; // where all values are equal
  source = new Bokeh.ColumnDataSource({ data: { x: [], y: [], colour: [], row: [] } });
  mapper = new Bokeh.LinearColorMapper({ palette: Bokeh.Palettes.Viridis256, low: 0, high: 1 });
  bar = new Bokeh.ColorBar({ color_mapper: mapper, width: 10, padding: 4 });
  plot.add_layout(bar, "right");
  plot.scatter({ field: "x" }, { field: "y" }, { source, size: 6, fill_alpha: 0.8, line_color: null,
    fill_color: { field: "colour", transform: mapper }, nonselection_fill_alpha: 0.1 });
  source.selected.properties.indices.change.connect(() => {
    const { indices } = source.selected;
    if (indices.length) brush(new Set(indices.map((place) => source.data.row[place])));
    else if (state.brushed) brush(null);
  });
  painted();
  plotted();
  Bokeh.Plotting.show(plot, $("scatter"));
}

options("class", [["", "all"], ...classes.map((name, label) => [String(label), name])]);
$("split").oninput = () => choose($("split").value);
for (const id of ["sort", "order", "low", "high", "class", "text"]) $(id).addEventListener("input", update);
for (const id of ["x", "y", "colour"]) $(id).addEventListener("input", plotted);
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("reset", (event) => {
  event.preventDefault();
  for (const id of ["low", "high", "class", "text"]) $(id).value = "";
  update();
});
$("all").addEventListener("click", () => { source.selected.indices = []; });
grid.addEventListener("scroll", draw);
grid.addEventListener("keydown", pressed);
grid.addEventListener("click", (event) => {
  const thumbnail = event.target.closest("[role=option]");
  if (!thumbnail) return;
  activate(Number(thumbnail.dataset.place));
  grid.focus();
  show(state.split, state.shown[state.active]);
});
new ResizeObserver(draw).observe(grid);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && painted());
choose("train");
/* the library comes after the first paint */
addEventListener("DOMContentLoaded", () => setTimeout(build));
