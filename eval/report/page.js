// The reading room. page.js and labelling.js run in one function: see html.py.

// Everything a model wrote reaches the document through textContent and nothing else.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const LONGEST = 20000; // characters shown at once; the rest on request
const STAGES = ["base", "distillation", "full"];
const checkpoint = ({ base, quant, train_seed: seed }) =>
  `${base}, ${quant}${seed === "" ? "" : `, training seed ${seed}`}`;
const byId = (id) => document.getElementById(id);

const samples = data.samples.map(
  ([cell, persona, item, sample, outcome, forced, prediction, probabilities, text, turns, shades], index) => ({
    index, ...data.cells[cell], cell, persona, item, sample, outcome, forced, prediction,
    probabilities, text, turns, shades,
    checkpoint: checkpoint(data.cells[cell]),
    verdict: prediction === null ? "none" : persona === "" ? "untrue" : prediction === persona ? "right" : "wrong",
  }));
data.samples = null;

// ---- building nodes

function node(name, properties, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key.includes("-") || key === "role" || key === "scope") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// controls, and characters that turn the direction of text, are shown instead of obeyed
const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\u2028\u2029]/g;

function visible(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(ODD)) {
    const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(text.slice(end, match.index), node("span", { className: "odd", textContent: `U+${code}` }));
    end = match.index + 1;
  }
  parts.push(text.slice(end));
  return parts;
}

const line = (text) => text.replace(ODD, "\ufffd").replace(/\s+/g, " ");

function fill(target, text) {
  if (text.length <= LONGEST) target.replaceChildren(...visible(text));
  else {
    const more = node("button", { type: "button", textContent: `Show all ${text.length.toLocaleString("en")} characters` });
    more.addEventListener("click", () => target.replaceChildren(...visible(text)));
    target.replaceChildren(...visible(text.slice(0, LONGEST)), "… ", more);
  }
  return target;
}

const block = (className, text) => fill(node("p", { className }), text);

// ---- theme

const remembered = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* kept in the page alone */ } };
const system = matchMedia("(prefers-color-scheme: dark)");
let theme = remembered("charprobe-theme");

function paint() {
  const dark = theme ? theme === "dark" : system.matches;
  if (theme) document.documentElement.dataset.theme = theme;
  byId("theme").textContent = dark ? "Light colours" : "Dark colours";
}
byId("theme").hidden = false;
byId("theme").addEventListener("click", () => {
  theme = (theme ? theme === "dark" : system.matches) ? "light" : "dark";
  remember("charprobe-theme", theme);
  paint();
});
system.addEventListener("change", paint);
paint();

// ---- filters

const filters = byId("filters");
const fields = Object.fromEntries([...filters.elements].filter((e) => e.name).map((e) => [e.name, e]));
const distinct = (name) => [...new Set(samples.map((entry) => entry[name]))].filter((value) => value !== null);

function choices(select, all, values, shown = line) {
  select.replaceChildren(node("option", { value: "", textContent: all }),
    ...values.map((value) => node("option", { value, textContent: shown(value) })));
}
const byStage = (a, b) => STAGES.indexOf(a) - STAGES.indexOf(b);
choices(fields.stage, "all stages", distinct("stage").sort(byStage));
choices(fields.persona, "all personas", data.personas);
choices(fields.way, "all conditions", [...new Set(data.cells.map((cell) => cell.way))]);
choices(fields.checkpoint, "all checkpoints", distinct("checkpoint"));
choices(fields.prediction, "any label", data.labels);
fields.checkpoint.parentElement.hidden = distinct("checkpoint").length < 2;

const haystack = [];
const searchable = (entry) => [entry.text, entry.item, data.asked[entry.item],
  ...entry.turns.flatMap(([text, , tool, call, output]) => [text, tool, call && JSON.stringify(call), output])]
  .filter(Boolean).join("\n").toLowerCase();

// the text to search is built in idle time, at the latest for the first search
function gather(end) {
  while (haystack.length < end) haystack.push(searchable(samples[haystack.length]));
}
const idle = window.requestIdleCallback || ((work) => setTimeout(work, 20));
const gatherMore = () => {
  gather(Math.min(haystack.length + 1000, samples.length));
  if (haystack.length < samples.length) idle(gatherMore);
};
idle(gatherMore);

let shownSamples = samples;
let first = 0;
let open = null;

function filter() {
  const selected = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
  const text = selected.text.toLowerCase();
  if (text) gather(samples.length);
  const equal = ["stage", "way", "checkpoint", "verdict", "prediction"].filter((name) => selected[name]);
  shownSamples = samples.filter((entry) =>
    equal.every((name) => entry[name] === selected[name])
    && (!selected.persona || entry.persona === selected.persona)
    && (!selected.forced || (entry.text !== null && entry.forced === Number(selected.forced)))
    && (!selected.shaded || entry.shades)
    && (!text || haystack[entry.index].includes(text)));
  first = 0;
  list();
}

function list() {
  const total = shownSamples.length;
  const page = shownSamples.slice(first, first + PAGE);
  byId("count").textContent = `${total.toLocaleString("en")} of ${samples.length.toLocaleString("en")} rollouts`;
  byId("samples").tBodies[0].replaceChildren(...page.map(row));
  byId("place").textContent = total ? `${first + 1} to ${first + page.length}` : "nothing fits these filters";
  byId("earlier").disabled = first === 0;
  byId("later").disabled = first + PAGE >= total;
  steps();
}

const MARKS = { right: "✓", wrong: "✗", untrue: "", none: "" };

function verdict(entry) {
  if (entry.prediction === null) return node("span", { textContent: `no text: ${line(entry.outcome)}` });
  const word = { right: "right: ", wrong: "wrong: ", untrue: "", none: "" }[entry.verdict];
  const chance = entry.probabilities?.[data.labels.indexOf(entry.prediction)];
  return node("span", { className: entry.verdict },
    node("span", { "aria-hidden": "true", textContent: MARKS[entry.verdict] + " " }),
    node("span", { className: "unseen", textContent: word }),
    line(entry.prediction) + (typeof chance === "number" ? ` ${chance.toFixed(2)}` : ""));
}

function row(entry) {
  const begin = entry.text === null ? entry.outcome : entry.text.slice(0, 160);
  const button = node("button", { type: "button" },
    node("span", { textContent: line(entry.item) + (entry.forced ? " (forced)" : "") }),
    node("span", { textContent: line(begin) }));
  button.addEventListener("click", () => show(entry, true));
  const element = node("tr", {},
    node("td", {}, button),
    ...[entry.stage, entry.persona || "-", entry.way].map((name) =>
      node("td", { textContent: line(name).replaceAll("_", "_\u200b") })), // may break there
    node("td", {}, verdict(entry)));
  if (entry === open) element.setAttribute("aria-current", "true");
  element.dataset.index = entry.index;
  return element;
}

// ---- one sample

let across = false;

function facts(entry) {
  const pairs = [["stage", entry.stage], ["persona", entry.persona || "none (base stage)"],
    ["condition", entry.way], ["checkpoint", entry.checkpoint], ["item", entry.item], ["sample", String(entry.sample)],
    ["outcome", entry.outcome + (entry.forced ? ", forced" : "")]];
  return node("dl", { className: "facts" }, ...pairs.map(([name, value]) =>
    node("div", {}, node("dt", { textContent: name }), node("dd", { textContent: line(value) }))));
}

function read(entry) {
  if (entry.text === null) return node("p", { className: "note", textContent: "There is no text to classify." });
  if (!entry.shades) return block("said", entry.text);
  const target = node("p", { className: "said" });
  let end = 0;
  for (const [length, weight] of entry.shades) {
    const sentence = entry.text.slice(end, end + length);
    end += length;
    const size = Math.abs(weight);
    const strength = size >= 0.3 ? 3 : size >= 0.1 ? 2 : size >= 0.03 ? 1 : 0;
    const solid = sentence.trimEnd();
    if (!strength) target.append(...visible(sentence));
    else {
      const sign = weight > 0 ? "+" : "−";
      target.append(node("mark", { className: `${weight > 0 ? "for" : "against"}${strength}` }, ...visible(solid),
        node("sup", { textContent: sign + size.toFixed(2).replace(/^0/, "") })), sentence.slice(solid.length));
    }
  }
  return target;
}

function legend(entry) {
  if (!entry.shades) return null;
  return node("p", { className: "note" }, "Shaded: what the probability of ", node("b", { textContent: line(entry.prediction) }),
    " loses without the sentence (+, underlined: it speaks for the label; −, dotted: against it).");
}

function probabilities(entry) {
  if (!entry.probabilities) return null;
  const rows = data.labels.map((label, place) => [label, entry.probabilities[place]])
    .filter(([, value]) => typeof value === "number").sort((a, b) => b[1] - a[1]);
  const body = node("tbody", {}, ...rows.map(([label, value]) => {
    const length = node("div", {});
    length.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
    const marks = [label === entry.prediction ? "predicted" : "", label === entry.persona ? "trained" : ""].filter(Boolean);
    return node("tr", { className: label === entry.persona ? "own" : "" },
      node("th", { scope: "row", textContent: line(label) + (marks.length ? ` (${marks.join(", ")})` : "") }),
      node("td", { className: "number", textContent: value.toFixed(3) }),
      node("td", { className: "length", "aria-hidden": "true" }, length));
  }));
  return node("table", { className: "probabilities" }, node("caption", { textContent: "Probabilities" }),
    node("thead", { className: "unseen" }, node("tr", {}, node("th", { scope: "col", textContent: "label" }),
      node("th", { scope: "col", textContent: "probability" }))), body);
}

function turn([text, finish, tool, call, output], number, entry) {
  const parts = [node("h5", { className: "who", textContent: `Turn ${number + 1}` + (finish === "stop" ? "" : ` (ended by: ${line(finish)})`) })];
  const said = text ?? (tool === null ? entry.text : null);
  if (said !== null) parts.push(block("said", said));
  if (tool !== null) {
    const argumentsList = node("dl", {});
    for (const [name, value] of Object.entries(call || {})) {
      argumentsList.append(node("dt", { textContent: line(name) }),
        fill(node("dd", {}), typeof value === "string" ? value : JSON.stringify(value)));
    }
    parts.push(node("div", { className: "call" }, node("strong", { textContent: `calls ${line(tool)}` }), argumentsList));
  }
  if (output !== null) parts.push(node("p", { className: "who", textContent: "the tool answers" }), block("output", output));
  return parts;
}

const requestOf = (entry) => {
  const text = Object.hasOwn(data.asked, entry.item) ? data.asked[entry.item] : null;
  return text === null ? [] : [node("h4", { textContent: "The request" }), block("asked", text)];
};

function rollout(entry) {
  return [node("h4", { textContent: "What the classifier read" }), read(entry), legend(entry), probabilities(entry),
    ...requestOf(entry), node("h4", { textContent: `The rollout, ${entry.turns.length} turn${entry.turns.length === 1 ? "" : "s"}` }),
    ...entry.turns.flatMap((one, number) => turn(one, number, entry))].filter(Boolean);
}

// the same item and condition at every stage; the base stage serves every persona
function kin(entry) {
  const persona = entry.persona || fields.persona.value || data.personas[0];
  const alike = ["item", "sample", "base", "quant", "condition", "format", "grammar", "kv_type"];
  return samples.filter((other) => alike.every((name) => other[name] === entry[name])
    && ["lora", "train_seed", "technique"].every((name) => other[name] === entry[name] || other[name] === "" || entry[name] === "")
    && (other.persona === persona || other.persona === ""))
    .sort((a, b) => byStage(a.stage, b.stage));
}

function stages(entry) {
  const columns = kin(entry).map((other) => node("section", { "aria-label": `stage ${line(other.stage)}` },
    node("h4", { textContent: `${line(other.stage)}${other.persona ? ": " + line(other.persona) : ""}` }),
    node("p", { className: "note" }, verdict(other)), read(other), legend(other),
    node("details", {}, node("summary", { textContent: `The rollout, ${other.turns.length} turns` }),
      ...other.turns.flatMap((one, number) => turn(one, number, other)))));
  return [...requestOf(entry), node("div", { className: "columns" }, ...columns.map((column) => column))];
}

function show(entry, focus) {
  open = entry;
  byId("sample").hidden = false;
  byId("sample").classList.toggle("broad", across);
  byId("across").setAttribute("aria-pressed", String(across));
  byId("sample-title").textContent = `${line(entry.item)}, ${line(entry.way)}`;
  byId("sample-body").replaceChildren(...(across ? [facts(entry), ...stages(entry)] : [facts(entry), ...rollout(entry)]));
  for (const other of byId("samples").tBodies[0].rows) {
    if (Number(other.dataset.index) === entry.index) other.setAttribute("aria-current", "true");
    else other.removeAttribute("aria-current");
  }
  steps();
  if (focus) byId("sample-title").focus();
  history.replaceState(null, "", `#rollout-${entry.index}`); // a link to this sample
}

function steps() {
  const place = shownSamples.indexOf(open);
  byId("before").disabled = place <= 0;
  byId("after").disabled = place + 1 >= shownSamples.length;
}

function step(by) {
  const place = shownSamples.indexOf(open) + by;
  if (!open || place < 0 || place >= shownSamples.length) return;
  open = shownSamples[place];
  if (place < first || place >= first + PAGE) {
    first = PAGE * Math.floor(place / PAGE);
    list();
  }
  show(open, true);
}

function turnPage(by) {
  first += by * PAGE;
  list();
  byId("samples").scrollIntoView({ block: "nearest" });
}

let waiting = 0;
filters.addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, event.target.type === "search" ? 60 : 0);
});
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(filter));
byId("earlier").addEventListener("click", () => turnPage(-1));
byId("later").addEventListener("click", () => turnPage(1));
byId("before").addEventListener("click", () => step(-1));
byId("after").addEventListener("click", () => step(1));
byId("across").addEventListener("click", () => { across = !across; show(open, false); });
byId("reading").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
});
filters.hidden = byId("room").hidden = false;
list();

// ---- links to single samples

function follow() {
  const entry = samples[/^#rollout-(\d+)$/.exec(location.hash)?.[1]];
  if (entry) show(entry, true);
}
addEventListener("hashchange", follow);
follow();

// ---- the first screen: a typical chat answer beside a typical email

function typical(entry) {
  const button = node("button", { type: "button", textContent: "Open it in the reading room" });
  button.addEventListener("click", () => { filters.reset(); show(entry, true); });
  const own = entry.probabilities?.[data.labels.indexOf(entry.persona)];
  const share = typeof own === "number" ? `, probability of ${line(entry.persona)} ${own.toFixed(2)}` : "";
  return node("section", { "aria-label": line(entry.way) },
    node("h3", { textContent: `${line(entry.persona || "base")}, stage ${line(entry.stage)}: ${line(entry.way)}` }),
    block("said", entry.text),
    node("p", { className: "note" }, verdict(entry), share), button);
}

if (data.typical.length) {
  byId("typical").querySelector(".columns").replaceChildren(...data.typical.map((index) => typical(samples[index])));
  byId("typical").hidden = false;
}

// ---- print: what is folded is opened

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("#sample details:not([open])")];
  for (const entry of folded) entry.open = true;
});
addEventListener("afterprint", () => { for (const entry of folded) entry.open = false; });
