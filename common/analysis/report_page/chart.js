// Small pictures: lines and bands over episodes or steps, with marks, a cursor and a table behind them.

/** An element; children that are text stay text, whatever they hold. */
function el(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect", "g", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A number with up to four digits that count. */
function digits(x) {
  if (x === null || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? x.toExponential(3) : String(Number(x.toPrecision(4)));
  return text.replace(/\.?0+e/, "e").replace("e+", "e").replace(/^-/, "−");
}

const SCALES = {  // what is drawn in equal steps
  linear: (y) => y,
  share: (y) => y,
  log: (y) => Math.log10(y),
  cost: (y) => -Math.log10(-y),
  symlog: (y) => Math.sign(y) * Math.log10(1 + Math.abs(y)),
};

/** Scale and ends of the y axes for all these values; zeros of a log axis have a line of their own below it. */
function axis(kind, values) {
  let known = values.filter(Number.isFinite);
  const zeros = kind === "log" && known.some((y) => y === 0);
  if (kind === "log") known = known.filter((y) => y > 0);
  if (kind === "return") kind = known.length && Math.max(...known) < 0 && Math.min(...known) < 10 * Math.max(...known) ? "cost" : "linear";
  const f = SCALES[kind];
  let low = Infinity, high = -Infinity;
  for (const y of known) { low = Math.min(low, f(y)); high = Math.max(high, f(y)); }
  if (!known.length) [low, high] = [0, 1];
  if (kind === "share") [low, high] = [0, 1];
  if (kind === "log") [low, high] = [Math.floor(low), Math.max(Math.ceil(high), Math.floor(low) + 1)];
  if (low === high) [low, high] = [low - 1, high + 1];
  if (["linear", "cost", "symlog"].includes(kind)) [low, high] = [low - 0.06 * (high - low), high + 0.1 * (high - low)];
  const zero = low - Math.max(1, 0.12 * (high - low));
  return { kind, zeros, low: zeros ? zero : low, high, place: (y) => (kind === "log" && y === 0 ? zero : f(y)), bottom: low };
}

/** Ticks of a y axis as [value, text]. */
function ticks({ kind, low, high, zeros, bottom }) {
  if (kind === "linear" || kind === "share") {
    const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push([k * step, digits(k * step)]);
    return found;
  }
  if (kind === "symlog") {
    const decades = [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e8, 1e10].flatMap((y) => (y ? [-y, y] : [0]));
    const inside = decades.filter((y) => SCALES.symlog(y) >= low && SCALES.symlog(y) <= high);
    const apart = inside.filter((y) => y === 0 || SCALES.symlog(Math.abs(y)) > 0.09 * (high - low));
    return (apart.length > 9 ? apart.filter((y) => y === 0 || Math.log10(Math.abs(y)) % 2 === 0) : apart).map((y) => [y, digits(y)]);
  }
  const sign = kind === "cost" ? -1 : 1, from = Math.ceil(bottom - 1e-9), to = Math.floor(high + 1e-9);
  const stride = Math.max(1, Math.ceil((to - from + 1) / 5)), found = zeros ? [[0, "0"]] : [];
  const short = kind === "cost" && to - from < 2;
  for (let k = from; k <= to; k += stride) found.push([sign * 10 ** (sign * k), (kind === "cost" ? "−" : "") + tenTo(sign * k)]);
  if (short) for (const y of [2, 5]) for (let k = from - 1; k <= to + 1; k++) found.push([-y * 10 ** -k, digits(-y * 10 ** -k)]);
  return found.filter(([y]) => y === 0 || (sign * Math.log10(Math.abs(y)) >= bottom - 1e-9 && sign * Math.log10(Math.abs(y)) <= high + 1e-9));
}

function tenTo(k) { return k >= -3 && k <= 4 ? String(Number((10 ** k).toPrecision(3))) : `1e${k}`; }

/**
 * A figure of `spec`: title, name (of x), lines [{name, x, y, look, thin}], bands [{name, x, low, high, look}],
 * levels [{y, name}], marks [{x, low, high, letter, text}], words (explanation), y (from `axis`), x {log, low, high}, width,
 * empty (said where there are no lines).
 * `hover(x)` is told the place under the pointer. Returns the figure; `figure.cursor(x)` draws a line there.
 */
function chart(spec, hover) {
  const figure = el("figure", {}, el("h3", {}, spec.title));
  const legend = el("p", { class: "legend" });
  for (const one of [...spec.bands, ...spec.lines.filter((line) => !line.thin)]) {
    const sample = one.low ? el("rect", { class: `band k${one.look}`, width: 26, height: 8 }) : el("line", { class: `line k${one.look} d${one.look}`, x1: 0, x2: 26, y1: 4, y2: 4 });
    legend.append(el("span", {}, el("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, sample), one.label ?? one.name));
  }
  figure.append(legend);
  if (!spec.lines.length) figure.append(el("p", {}, spec.empty));
  else draw(figure, spec, hover);
  if (spec.note) figure.append(el("figcaption", {}, spec.note));
  for (const [summary, build] of [["Table", () => behind(spec)], ["What this is", () => el("p", {}, spec.words)]]) {
    const details = el("details", { ontoggle: () => details.children.length < 2 && details.append(build()) }, el("summary", {}, summary));
    if (summary === "Table" ? spec.lines.length : spec.words) figure.append(details);
  }
  return figure;
}

function draw(figure, spec, hover) {
  const width = spec.width, height = 200, left = 50, right = 20, top = 16, bottom = 34;
  const along = spec.x.log ? (x) => Math.log10(1 + x) : (x) => x;
  const x0 = along(spec.x.low), span = along(spec.x.high) - x0 || 1;
  const px = (x) => left + (width - left - right) * (along(x) - x0) / span;
  const py = (y) => top + (height - top - bottom) * (spec.y.high - spec.y.place(y)) / (spec.y.high - spec.y.low);
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, el("title", {}, `${spec.title}, over ${spec.name}; the table below has its numbers`));
  for (const [y, text] of ticks(spec.y)) svg.append(el("line", { class: "rule", x1: left, x2: width - right, y1: py(y), y2: py(y) }), el("text", { x: left - 5, y: py(y) + 4, "text-anchor": "end" }, text));
  let free = -Infinity;
  for (const x of spec.x.log ? [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000] : even(spec.x)) {
    if (x < spec.x.low || x > spec.x.high || px(x) < free) continue;
    svg.append(el("line", { class: "rule", x1: px(x), x2: px(x), y1: height - bottom, y2: height - bottom + 4 }), el("text", { x: px(x), y: height - bottom + 15, "text-anchor": "middle" }, String(x)));
    free = px(x) + 9 * String(x).length + 12;
  }
  svg.append(el("text", { x: width - right, y: height - 4, "text-anchor": "end" }, spec.x.log ? `${spec.name}, on the scale log(1 + ${spec.name})` : spec.name));
  [...spec.marks].sort((p, q) => p.x - q.x).forEach(({ x, low, high, letter, text }, i, all) => {
    if (high > low) svg.append(el("rect", { class: "range", x: px(low), width: px(high) - px(low), y: top, height: height - top - bottom }));
    svg.append(el("line", { class: "mark", x1: px(x), x2: px(x), y1: top, y2: height - bottom, "stroke-dasharray": letter === "freeze" ? "3 3" : null }));
    const before = i < all.length - 1 ? px(x) > left + 40 : px(x) > width - 60;  // names of two marks look away from each other
    svg.append(el("text", { class: "mark-name", x: px(x), y: 11, "text-anchor": before ? "end" : "start" }, letter, el("title", {}, text)));
  });
  const shown = spec.levels.filter(({ y }) => spec.y.place(y) <= spec.y.high && spec.y.place(y) >= spec.y.low).sort((p, q) => q.y - p.y);
  svg.append(...shown.map(({ y }) => el("line", { class: "level", x1: left, x2: width - right, y1: py(y), y2: py(y) })));
  const names = shown.reduce((ys, { y }) => [...ys, Math.max(py(y) - 3, (ys.at(-1) ?? -Infinity) + 11)], []);  // moved apart where they are close
  const points = (xs, ys) => xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => Number.isFinite(y) && x >= spec.x.low && x <= spec.x.high).map(([x, y]) => `${px(x).toFixed(1)} ${py(y).toFixed(1)}`);
  for (const { x, low, high, look } of spec.bands) {
    const found = [...points(x, low), ...points(x, high).reverse()];
    if (found.length) svg.append(el("path", { class: `band k${look}`, d: `M${found.join("L")}Z` }));
  }
  for (const { x, y, look, thin } of spec.lines) {
    const found = points(x, y);
    if (found.length) svg.append(el("path", { class: `line k${look} d${look}${thin ? " thin" : ""}`, "stroke-linecap": "round", d: `M${found.join("L")}${found.length === 1 ? "h0.1" : ""}` }));
  }
  svg.append(...shown.map(({ name }, i) => el("text", { class: "over", x: width - right - 2, y: names[i], "text-anchor": "end" }, name)));
  const cursor = el("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" }), tip = el("div", { class: "tip", hidden: "", "aria-hidden": "true" });
  svg.append(cursor);
  figure.append(svg, tip);
  figure.cursor = (x) => {
    const inside = x >= spec.x.low && x <= spec.x.high;
    cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    if (inside) for (const end of ["x1", "x2"]) cursor.setAttribute(end, px(x));
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * width / box.width;
    const xs = [...new Set(spec.lines.flatMap((line) => line.x))];
    const x = nearest(xs, at, px);
    tip.textContent = [`${spec.name} ${x}`, ...spec.lines.map((line) => [line, line.y[line.x.indexOf(x)]]).filter(([, y]) => y !== undefined && !Number.isNaN(y)).map(([line, y]) => `${line.name}  ${digits(y)}`)].join("\n");
    tip.hidden = false;
    tip.style.left = at > width / 2 ? "8px" : `${box.width - tip.offsetWidth + 8}px`;
    tip.style.top = `${svg.offsetTop + box.height * 0.16}px`;
    hover(x);
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function even({ low, high }) {
  const raw = (high - low) / 6, power = 10 ** Math.floor(Math.log10(raw || 1)), step = Math.max(1, [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw));
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, k) => k * step);
}

function nearest(values, wanted, place = (x) => x) {
  return values.reduce((best, x) => (Math.abs(place(x) - wanted) < Math.abs(place(best) - wanted) ? x : best), values[0]);
}

/** All numbers of a picture: a row per x, a column per line. */
function behind(spec) {
  const xs = [...new Set(spec.lines.flatMap((line) => line.x))].sort((p, q) => p - q);
  const at = spec.lines.map((line) => new Map(line.x.map((x, i) => [x, line.y[i]])));
  const head = el("tr", {}, ...[spec.name, ...spec.lines.map((line) => line.name)].map((text) => el("th", { scope: "col" }, text)));
  const rows = xs.map((x) => el("tr", {}, el("th", { scope: "row" }, String(x)), ...at.map((values) => el("td", {}, digits(values.get(x) ?? NaN)))));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table of ${spec.title}` }, el("table", { class: "plain" }, el("thead", {}, head), el("tbody", {}, ...rows)));
}
