// What is chosen, and what is shown of it.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const number = (x) => (x === null || x === undefined ? NaN : Number(x));
const rateText = new Map(data.studies.flatMap((study) => [...study.actor_lrs, ...study.critic_lrs]));
const first = data.studies[0].runs[0];
const chosen = { a: 0, b: -1, measure: data.measures[0].column, actor: first.actor, critic: first.critic, seed: "all", axis: "log", episode: 10 };

// ---- numbers ----

/** One column of a study over its logged episodes: { x, of(run) } or null where it is not recorded. */
function curve(study, column) {
  const own = study.curves.find((some) => some.columns.includes(column));
  if (!own) return null;
  own.values ??= new Float32Array(Uint8Array.from(atob(own.numbers), (sign) => sign.charCodeAt(0)).buffer);
  const place = own.columns.indexOf(column), length = own.episodes.length;
  return { x: own.episodes, of: (run) => own.values.subarray((run * own.columns.length + place) * length, (run * own.columns.length + place + 1) * length) };
}

function median(values) {
  const sorted = values.slice().sort((p, q) => p - q), middle = sorted.length >> 1;
  return sorted.some(Number.isNaN) || !sorted.length ? NaN : sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Runs of the chosen cell and seeds, each with its place in the study. */
function chosenRuns(study) {
  return study.runs.map((run, place) => ({ ...run, place }))
    .filter((run) => run.actor === chosen.actor && run.critic === chosen.critic && (chosen.seed === "all" || run.seed === Number(chosen.seed)));
}

/** Differences A − B of a measure over the pairs of runs of one cell: same seed, same rates. NaN where one has no number. */
function differences(a, b, measure, actor, critic) {
  const of = (study) => study.runs.filter((run) => run.actor === actor && run.critic === critic);
  return of(a).flatMap((run) => of(b).filter((other) => other.seed === run.seed)
    .map((other) => number(run.values[measure.run]) - number(other.values[measure.run])));
}

// ---- grids ----

const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const DIVERGING = [[178, 84, 0], [241, 181, 120], [245, 245, 245], [128, 180, 220], [0, 90, 160]];  // B larger … A larger

/** Background and ink of a share between 0 and 1 of a palette. */
function paint(stops, share) {
  if (Number.isNaN(share)) return "background:var(--none);color:var(--ink)";
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  const rgb = stops[i].map((x, k) => Math.round(x + (at - i) * (stops[i + 1][k] - x)));
  const light = rgb.map((x) => (x / 255) ** 2.2), luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
  return `background:rgb(${rgb});color:${luminance > 0.18 ? "#000" : "#fff"}`;
}

function shareOf(measure, values) {
  if (measure.scale === "share") return (x) => x;
  if (measure.scale === "score") return measure.column === "drift" ? (x) => x / 2 : (x) => (x + 1) / 2;
  const known = values.filter((x) => x > 0 && Number.isFinite(x)).map(Math.log), low = Math.min(...known), high = Math.max(...known);
  return (x) => (high > low ? (Math.log(x) - low) / (high - low) : Number.isNaN(x) ? x : 0.5);
}

function gridTable(title, rates, cellOf) {
  const table = el("table", { class: "grid" }, el("caption", {}, title));
  const [actors, critics] = rates;
  table.append(el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "actor ↓ critic →"), ...critics.map(([, text]) => el("th", { scope: "col" }, text)))));
  const body = el("tbody");
  actors.forEach(([actor, actorText], row) => {
    const line = el("tr", {}, el("th", { scope: "row" }, actorText));
    critics.forEach(([critic, criticText], column) => {
      const [lines, style] = cellOf(actor, critic), pressed = actor === chosen.actor && critic === chosen.critic;
      const button = el("button", {
        type: "button", style, "aria-pressed": pressed, "data-row": row, "data-column": column,
        "aria-label": `actor ${actorText}, critic ${criticText}: ${lines.join(", ")}`,
        onclick: () => {
          const which = tables.indexOf(table);
          Object.assign(chosen, { actor, critic });
          refresh();
          tables[which].querySelector(`[data-row="${row}"][data-column="${column}"]`).focus();
        },
        onkeydown: (event) => move(event, table, row, column),
      }, lines[0], ...lines.slice(1).map((text) => el("small", {}, text)));
      line.append(el("td", {}, button));
    });
    body.append(line);
  });
  table.append(body);
  return table;
}

let tables = [];

function move(event, table, row, column) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const target = step && table.querySelector(`[data-row="${row + step[0]}"][data-column="${column + step[1]}"]`);
  if (step) event.preventDefault();
  target?.focus();
}

function union(lists) {
  return [...new Map(lists.flat()).entries()].sort((p, q) => p[0] - q[0]);
}

function showGrids() {
  const measure = data.measures.find((some) => some.column === chosen.measure);
  const studies = [data.studies[chosen.a], data.studies[chosen.b]].filter(Boolean);
  const rates = [union(studies.map((study) => study.actor_lrs)), union(studies.map((study) => study.critic_lrs))];
  const valueOf = (cell) => number(cell.measures[measure.column][0]);
  const share = shareOf(measure, studies.flatMap((study) => study.cells.map(valueOf)));
  tables = studies.map((study, i) => gridTable(`${"AB"[i]}: ${study.label}`, rates, (actor, critic) => {
    const cell = study.cells.find((some) => some.actor === actor && some.critic === critic);
    return cell ? [cell.measures[measure.column][1], paint(VIRIDIS, share(valueOf(cell)))] : [["no run"], paint(VIRIDIS, NaN)];
  }));
  if (studies.length === 2) tables.push(differenceTable(...studies, measure, rates));
  byId("grids").replaceChildren(...tables.map((table) => el("div", { class: "scroll" }, table)));
  const over = { mean: "mean over seeds, in brackets their range", median: "median over seeds, in brackets their range", agents: "median over the agents that have one, of all seeds" }[measure.over];
  const colour = { score: measure.column === "drift" ? "colours from 0 to 2" : "colours from −1 to 1", share: "colours from 0 to 100%", log: "colours on a log scale, dark is small" }[measure.scale];
  const never = measure.column === "stopping_episode" ? ` A seed that never stopped counts as later than any. never: not within ${studies.map((study) => study.longest).join(" and ")} episodes.` : "";
  byId("measure-words").textContent = `${measure.title}: ${data.words[measure.column] ?? measure.column}. In a cell: ${over}; ${colour}.${never}`;
  byId("notes").replaceChildren(...notes(studies).map((text) => el("p", { class: "note" }, text)));
}

function differenceTable(a, b, measure, rates) {
  const all = new Map();
  for (const [actor] of rates[0]) for (const [critic] of rates[1]) all.set(`${actor} ${critic}`, differences(a, b, measure, actor, critic));
  const means = [...all.values()].map((values) => values.reduce((sum, x) => sum + x, 0) / values.length);
  const largest = measure.scale === "log" ? Math.max(...means.filter(Number.isFinite).map(Math.abs), 1) : 1;
  return gridTable(`A − B, same seed and rates: ${measure.title}`, rates, (actor, critic) => {
    const values = all.get(`${actor} ${critic}`), known = values.filter((x) => !Number.isNaN(x)), n = values.length;
    if (!n) return [["no pair"], paint(DIVERGING, NaN)];
    if (known.length < n) return [["–", `${known.length}/${n} pairs have both`], paint(DIVERGING, NaN)];
    const mean = values.reduce((sum, x) => sum + x, 0) / n;
    const half = n >= data.fewest ? data.t[n] * Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1) / n) : NaN;
    const spread = n >= data.fewest ? [`(${signed(mean - half)} to ${signed(mean + half)})`] : [];
    return [[signed(mean), ...spread, `A larger: ${values.filter((x) => x > 0).length}/${n}`], paint(DIVERGING, 0.5 + mean / largest / 2)];
  });
}

function signed(x) { return (x > 0 ? "+" : "") + digits(Number(x.toPrecision(3))); }

/** What a reader of these studies must know. */
function notes(studies) {
  const found = [], [a, b] = studies;
  for (const study of studies) {
    const diverged = study.runs.filter((run) => run.status === "diverged").length;
    if (study.runs.length < study.expected) found.push(`${study.label}: ${study.runs.length} of ${study.expected} runs are there (cells × seeds); it is still running, or was interrupted.`);
    if (diverged) found.push(`${study.label}: ${diverged} of ${study.runs.length} runs diverged; they have no score.`);
    if (study.ages.startsWith("episodes")) found.push(`${study.label}: scores are of several ages, ${study.ages}: runs were stopped early.`);
    if (study.missing.length) found.push(`${study.label}: recorded before these were measured: ${study.missing.join(", ")}.`);
    if (study.thinned) found.push(`${study.label}: to keep the page small, curves show all logged episodes up to 20 and after that every second, third … of them, and the last.`);
  }
  if (!b) return found;
  if (a.ages !== b.ages) found.push(`Scores are of different ages and do not compare: ${a.ages} in A, ${b.ages} in B.`);
  if (a.longest !== b.longest) found.push(`A trained ${a.longest} episodes, B ${b.longest}.`);
  const unlike = a.preset !== b.preset || ["random", "greedy_offload"].some((policy) => Object.entries(a.references[policy] ?? {}).some(([seed, x]) => {
    const y = b.references[policy]?.[seed];
    return y !== undefined && Math.abs(x - y) > data.tolerance * Math.abs(y);
  }));
  if (unlike) found.push("A and B have other presets, agents or tasks: their runs do not pair.");
  const both = a.runs.filter((run) => b.runs.some((other) => other.seed === run.seed && other.actor === run.actor && other.critic === run.critic)).length;
  if (both < Math.max(a.runs.length, b.runs.length)) found.push(`${both} pairs of runs have the same seed and rates, of ${a.runs.length} runs in A and ${b.runs.length} in B.`);
  const shared = Math.max(1, new Set(a.runs.map((run) => run.seed).filter((seed) => b.runs.some((run) => run.seed === seed))).size);
  if (a !== b) found.push(`A − B is a mean over seeds${Object.keys(data.t).length ? `, from ${data.fewest} seeds on with its 95% interval (Student's t)` : ""}; of ${shared} seed${shared > 1 ? "s" : ""} all are larger by chance in one cell of ${2 ** shared}.`);
  return found;
}

// ---- a cell over time ----

const Z_NAMES = ["smallest", "1%", "25%", "50%", "75%", "99%", "largest"];
const PANELS = [
  { title: "Evaluation return", columns: { evaluation_return: "evaluation return" }, scale: "return" },
  { title: "Pre-activation z", columns: Object.fromEntries(["z_min", "z_q01", "z_q25", "z_q50", "z_q75", "z_q99", "z_max"].map((name, i) => [name, `z ${Z_NAMES[i]}`])), scale: "symlog" },
  { title: "1 − tanh² z", columns: { tanh_derivative: "1 − tanh² z" }, scale: "log" },
  { title: "|∂Q/∂a|", columns: { mean_abs_dq_da: "|∂Q/∂a|" }, scale: "log" },
  { title: "Does the critic point uphill?", columns: { dq_da_alignment_compute: "alignment, compute", dq_da_alignment_power: "alignment, power" }, scale: "linear" },
  { title: "Gradient norms", columns: { actor_gradient_norm: "actor gradient", critic_gradient_norm: "critic gradient" }, scale: "log" },
  { title: "Step norms", columns: { actor_update_norm: "actor step", critic_update_norm: "critic step" }, scale: "log" },
  { title: "Shares of outputs", columns: { saturation_ratio: "saturated", wrong_side_saturation: "on the wrong side", stuck_share: "stuck" }, scale: "share" },
];

/** Lines and bands of a panel for one study. */
function content(study, panel) {
  const runs = chosenRuns(study), lines = [], bands = [], isZ = panel.scale === "symlog";
  const found = Object.entries(panel.columns).map(([column, name], i) => ({ name, look: isZ ? 0 : i, own: curve(study, column) })).filter((one) => one.own && runs.length);
  for (const { name, look, own } of found) {
    const values = runs.map((run) => Array.from(own.of(run.place)));
    const middle = own.x.map((_, i) => median(values.map((y) => y[i])));
    const ended = middle.every(Number.isNaN);
    if (runs.length > 1) lines.push({ name: `${name}, median of seeds`, label: name, x: own.x, y: middle, look });
    if (!isZ || runs.length === 1 || ended) runs.forEach((run, k) => lines.push({ name: runs.length > 1 ? `${name}, seed ${run.seed}` : name, x: own.x, y: values[k], look, thin: runs.length > 1 && !ended }));
  }
  if (isZ && lines.length === 7) {
    lines.forEach((line, i) => { line.look = i === 3 ? 0 : i % 6 ? 1 : 2; line.thin = i % 6 !== 0 && i !== 3; });
    bands.push({ name: "1% to 99%", x: lines[1].x, low: lines[1].y, high: lines[5].y, look: 0 }, { name: "25% to 75%", x: lines[2].x, low: lines[2].y, high: lines[4].y, look: 0 });
  }
  return { lines, bands };
}

/** Where agents of the shown runs died and froze: the median of the runs' medians, and the range of all agents. */
function marks(study) {
  const runs = chosenRuns(study);
  return [["gradient_death_episode", "median_death_episode", "death"], ["freeze_episode", "median_freeze_episode", "freeze"]].flatMap(([column, middle, letter]) => {
    const some = runs.filter((run) => run[column]?.[1] > 0);
    if (!some.length) return [];
    const low = Math.min(...some.map((run) => run[column][2])), high = Math.max(...some.map((run) => run[column][3])), x = median(some.map((run) => run.values[middle]));
    return [{ x, low, high, letter, text: `${letter}: ${x} (${low} to ${high})` }];
  });
}

function levels(study, panel) {
  if (panel.scale === "symlog") return [1, -1].map((side) => ({ y: side * underflow("float32"), name: side > 0 ? "float32: no slope beyond" : "" }));
  if (panel.scale === "linear") return [{ y: 0, name: "knows nothing" }];
  if (panel.scale !== "return") return [];
  const seeds = [...new Set(chosenRuns(study).map((run) => run.seed))];
  return data.policies.filter((policy) => study.references[policy]).map((name) => {
    const returns = seeds.map((seed) => number(study.references[name][seed]));
    return { name, y: returns.reduce((sum, x) => sum + x, 0) / returns.length };
  });
}

/** Why a panel has no lines. */
function absent(study, panel) {
  if (!chosenRuns(study).length) return "no run of this cell and seed";
  return Object.keys(panel.columns).every((column) => study.missing.includes(column)) ? "not recorded" : "no numbers";
}

const OF_STATES = new Set(["z_min", "tanh_derivative", "saturation_ratio", "wrong_side_saturation", "stuck_share", "dq_da_alignment_compute", "dq_da_alignment_power"]);

let pictures = [];
function showPanels() {
  const studies = shownStudies();
  pictures = [];
  const host = byId("panels");
  host.className = byId("numbers").className = studies.length === 2 ? "pair" : "";
  host.replaceChildren();
  const wide = studies.length === 2 && innerWidth > 700;
  for (const panel of PANELS) {
    const contents = studies.map((study) => ({ ...content(study, panel), levels: levels(study, panel) }));
    const y = axis(panel.scale, contents.flatMap((one) => [...one.lines.map((line) => line.y), one.levels.map((level) => level.y)].flat()));
    const longest = Math.max(...studies.map((study) => study.longest));
    const words = Object.entries(panel.columns).map(([column, name]) => `${name}: ${data.words[column] ?? column}`).join("\n");
    studies.forEach((study, i) => {
      const runs = chosenRuns(study), many = runs.length > 1;
      const kinds = [many ? `${panel.scale === "symlog" ? "" : "thin: one seed; "}thick: median, as far as all ${runs.length} go` : "", panel.scale === "symlog" ? "dashed: smallest and largest" : "", y.zeros ? "exact zeros on the line 0" : ""].filter(Boolean).join("; ");
      const name = studies.length === 2 ? `${"AB"[i]}: ${panel.title}` : panel.title;
      const picture = chart({ title: name, name: "episode", width: wide ? 600 : 420, empty: absent(study, panel), note: kinds, marks: marks(study), words, y, x: { log: chosen.axis === "log", low: 0, high: longest }, ...contents[i] }, setEpisode);
      pictures.push(picture);
      host.append(picture);
    });
  }
}

function shownStudies() { return [data.studies[chosen.a], data.studies[chosen.b]].filter(Boolean); }

/** Which of the two factors of the actor's gradient has fallen since the first logged episode. */
function reading(gradient, slope, push, slope0, push0) {
  if ([gradient, slope, push, slope0, push0].some((x) => Number.isNaN(x))) return "–";
  const factors = [slope / slope0, push / push0], low = Math.min(...factors);
  if (gradient === 0 && slope === 0 && push > 0) return "the tanh: exactly no slope";
  if (gradient === 0 && push === 0 && slope > 0) return "the critic: flat";
  if (!(low < 0.1)) return "neither";
  const both = Math.max(...factors) < 0.1;
  return both ? "both" : factors[0] < factors[1] ? "the tanh" : "the critic";
}

function showReadout() {
  const columns = shownStudies().flatMap((study, i) => chosenRuns(study).map((run) => ({ study, run, name: `${byId("b").value >= 0 ? "AB"[i] + ", " : ""}seed ${run.seed}` })));
  const row = (name, cellOf) => el("tr", {}, el("th", { scope: "row" }, name), ...columns.map((column) => el("td", {}, cellOf(column))));
  const section = (name) => el("tr", { class: "section" }, el("th", { scope: "rowgroup", colspan: columns.length + 1 }, name));
  const at = ({ study, run }, column, episode = chosen.episode) => {
    const own = curve(study, column);
    if (!own) return { y: NaN, x: NaN };
    // An empty cell of a logged episode is shown as one: of a table of states, episodes are those in which z was.
    const values = own.of(run.place), there = curve(study, OF_STATES.has(column) ? "z_min" : column)?.of(run.place) ?? values;
    const logged = own.x.filter((_, i) => !Number.isNaN(there[i]));
    const x = nearest(logged.length ? logged : own.x, episode);
    return { x, y: values[own.x.indexOf(x)] };
  };
  const told = ({ study }, column, y) => (study.missing.includes(column) ? "not recorded" : digits(y));
  const event = ({ run }, column, middle) => {
    const [agents, count, low, high] = run[column];
    return count ? `${digits(number(run.values[middle]))} (${low} to ${high}), ${Math.round(100 * count / agents)}%` : "none";
  };
  const rows = [section("The whole run")];
  rows.push(row("status", ({ run }) => run.status + (run.status === "diverged" ? ` in ${run.diverged}` : "")));
  rows.push(row("gradient death: median agent (range), share", (c) => event(c, "gradient_death_episode", "median_death_episode")));
  rows.push(row("freeze: median agent (range), share", (c) => event(c, "freeze_episode", "median_freeze_episode")));
  for (const measure of data.measures.filter((some) => some.over !== "agents")) rows.push(row(measure.title, (c) => told(c, measure.column, number(c.run.values[measure.run]))));
  rows.push(section(`At episode ${chosen.episode}, or the logged one nearest to it`));
  rows.push(row("logged episode", (c) => digits(at(c, "actor_gradient_norm").x)));
  for (const panel of PANELS.slice(1)) for (const [column, name] of Object.entries(panel.columns)) rows.push(row(name, (c) => told(c, column, at(c, column).y)));
  const unknown = (c) => { // between the first logged episode, to which all else is compared, and the next one
    const first = at(c, "tanh_derivative", 0).x, next = curve(c.study, "tanh_derivative")?.x.find((x) => x > first);
    return chosen.episode > first && at(c, "tanh_derivative").x === first ? `nothing is logged before episode ${next ?? "the last"}` : null;
  };
  const factor = (c, column) => at(c, column).y / at(c, column, 0).y;
  rows.push(row("1 − tanh² z, times its first", (c) => `× ${digits(factor(c, "tanh_derivative"))}`));
  rows.push(row("|∂Q/∂a|, times its first", (c) => `× ${digits(factor(c, "mean_abs_dq_da"))}`));
  const verdict = (c) => unknown(c) ?? reading(...["actor_gradient_norm", "tanh_derivative", "mean_abs_dq_da"].map((column) => at(c, column).y), ...["tanh_derivative", "mean_abs_dq_da"].map((column) => at(c, column, 0).y));
  rows.push(row("what has fallen: the tanh or the critic?", verdict));
  rows.push(row("evaluation return", (c) => { const { x, y } = at(c, "evaluation_return"); return `${digits(y)} (episode ${x})`; }));
  const head = el("tr", {}, el("th", { scope: "col" }, ""), ...columns.map(({ name }) => el("th", { scope: "col" }, name)));
  byId("readout").className = "plain";
  byId("readout").replaceChildren(el("thead", {}, head), el("tbody", {}, ...rows));
  const verdicts = shownStudies().map((study, i) => {
    const own = columns.filter((column) => column.study === study), counts = new Map();
    own.forEach((column) => counts.set(verdict(column), (counts.get(verdict(column)) ?? 0) + 1));
    const texts = [...counts].map(([text, n]) => (own.length > 1 ? `${text} (${n} of ${own.length} seeds)` : text));
    return `${shownStudies().length === 2 ? `${"AB"[i]}: ` : ""}${own.length ? texts.join(", ") : "no run of this cell"}`;
  });
  const seen = [...new Set(columns.map((column) => at(column, "tanh_derivative").x))].filter((x) => x !== chosen.episode && !Number.isNaN(x));
  const where = `episode ${chosen.episode}${seen.length ? ` (logged nearest: ${seen.join(", ")})` : ""}`;
  byId("reading").replaceChildren(el("p", { class: "note" }, `Is it the tanh or the critic? At ${where}: ${verdicts.join("; ")}.`),
    el("p", { class: "words" }, "An actor's gradient has two factors, 1 − tanh² z and ∂Q/∂a. Named is the one that is below a tenth of what it was at the first logged episode."));
  pictures.forEach((picture) => picture.cursor?.(chosen.episode));
}

function setEpisode(episode) {
  const longest = Math.max(...shownStudies().map((study) => study.longest));
  chosen.episode = Math.min(Math.max(Math.round(episode) || 0, 0), longest);
  byId("episode").max = byId("episode-number").max = longest;
  byId("episode").value = byId("episode-number").value = chosen.episode;
  showReadout();
}

function showCell() {
  byId("cell-title").textContent = `Actor ${rateText.get(chosen.actor)}, critic ${rateText.get(chosen.critic)}: its runs over time`;
  const seeds = [...new Set(shownStudies().flatMap((study) => study.seeds))].sort((p, q) => p - q).map(String);
  if (!seeds.includes(chosen.seed)) chosen.seed = "all";
  fill("seed", [["all", "all"], ...seeds.map((seed) => [seed, seed])], chosen.seed);
  showPanels();
  setEpisode(chosen.episode);
}

// ---- the mechanism ----

const SETTINGS = { rate: 0.01, scale: 1, beta1: 0.9, type: "float32", limit: 0 };
const CONTROLS = {
  rate: ["Learning rate", [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1]],
  scale: ["Input scale", [0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]],
  beta1: ["Adam's β₁", [0, 0.5, 0.8, 0.9, 0.95, 0.99]],
  type: ["Float type", ["float32", "float64"]],
  limit: ["Step limit (share of the layer's weights)", [0, 1e-4, 1e-3, 1e-2, 1e-1]],
};
const settings = { ...SETTINGS };

function showMechanism() {
  const run = simulate(settings), before = simulate(SETTINGS), same = Object.keys(SETTINGS).every((key) => SETTINGS[key] === settings[key]);
  const steps = run.z.map((_, t) => t);
  const line = (key, other = false) => ({ name: other ? "with the default settings" : key, x: steps, y: (other ? before : run)[key], look: other ? 1 : 0, thin: false });
  const pair = (key, name) => [{ ...line(key), name }, ...(same ? [] : [line(key, true)])];
  const found = [run.death && { x: run.death, letter: "death", text: `gradient death at step ${run.death}` }, run.freeze && { x: run.freeze, letter: "freeze", text: `freeze at step ${run.freeze}` }].filter(Boolean).map((mark) => ({ ...mark, low: mark.x, high: mark.x }));
  const limit = underflow(settings.type);
  const pictures = [
    ["z", "Pre-activation z", "symlog", [{ y: limit, name: `${settings.type}: no slope beyond ${limit.toFixed(1)}` }]],
    ["slope", "1 − tanh² z", "log", []],
    ["weight", "Weight", "linear", []],
    ["change", "|Change of the weight| in a step", "log", []],
  ].map(([key, title, scale, levels]) => {
    const lines = pair(key, title), y = axis(scale, [...lines.flatMap((one) => one.y), ...levels.map((level) => level.y)]);
    return chart({ title, name: "step", lines, bands: [], levels, marks: found, words: "", empty: "", width: innerWidth > 700 ? 600 : 420, note: y.zeros ? "exact zeros on the line 0" : "", y, x: { log: chosen.axis === "log", low: 0, high: steps.length - 1 } }, (x) => pictures.forEach((picture) => picture.cursor(x)));
  });
  byId("mechanism").replaceChildren(...pictures);
  const coast = run.death ? Math.abs(run.weight.at(-1) - run.weight[run.death - 1]) / settings.rate : 0;
  byId("story").textContent = [
    `The first step moves z by ${digits(run.z[1] - run.z[0])}, from ${digits(run.z[0])} to ${digits(run.z[1])}.`,
    run.death ? `From step ${run.death} on the gradient is exactly 0.` : `The gradient does not die within 200 steps: z ends at ${digits(run.z.at(-1))}, 1 − tanh² z at ${digits(run.slope.at(-1))}.`,
    run.death ? `Adam coasts on: the weight moves by ${digits(coast)} learning rates more, and z ends at ${digits(run.z.at(-1))}.` : "",
    run.freeze ? `Nothing changes any more from step ${run.freeze} on.` : "The weights do not freeze within 200 steps.",
    same ? "" : `With the default settings: death ${before.death ?? "never"}, freeze ${before.freeze ?? "never"}.`,
  ].join(" ");
}

// ---- start ----

function fill(id, options, value) {
  byId(id).replaceChildren(...options.map(([key, text]) => el("option", { value: key }, text)));
  byId(id).value = value;
}

function refresh() { showGrids(); showCell(); }

const names = data.studies.map((study, i) => [i, study.label]);
fill("a", names, 0);
fill("b", [[-1, "none"], ...names], -1);
fill("measure", data.measures.map((measure) => [measure.column, measure.title]), chosen.measure);
for (const id of ["a", "b"]) byId(id).addEventListener("change", () => {
  chosen[id] = Number(byId(id).value);
  const has = shownStudies().some((study) => study.cells.some((cell) => cell.actor === chosen.actor && cell.critic === chosen.critic));
  if (!has) ({ actor: chosen.actor, critic: chosen.critic } = shownStudies()[0].cells[0]);
  refresh();
});
byId("measure").addEventListener("change", () => { chosen.measure = byId("measure").value; showGrids(); });
byId("seed").addEventListener("change", () => { chosen.seed = byId("seed").value; showCell(); });
byId("axis").addEventListener("change", () => { chosen.axis = byId("axis").value; showCell(); showMechanism(); });
for (const id of ["episode", "episode-number"]) byId(id).addEventListener("input", () => { if (byId(id).value !== "") setEpisode(Number(byId(id).value)); });
for (const [key, [title, values]] of Object.entries(CONTROLS)) {
  const select = el("select", { id: `set-${key}`, onchange: () => { settings[key] = key === "type" ? select.value : Number(select.value); showMechanism(); } },
    ...values.map((value) => el("option", { value }, value === 0 && key === "limit" ? "none" : String(value))));
  select.value = SETTINGS[key];
  byId("settings").append(el("label", {}, title, select));
}
byId("footer").textContent = "Numbers are those of the studies' CSV files (docs/csv_columns.md), curves in single precision.";
document.title = data.studies.length === 1 ? `Report: ${data.studies[0].label}` : `Report of ${data.studies.length} studies`;
refresh();
showMechanism();
