// ---- blind labelling

const KEPT = `charprobe-labels-${data.key}`;
let labels = new Map(); // index of the sample -> whether the trait is present
let seed = 0;
let queue = [];
let past = [];

function restore() {
  let kept = null;
  try { kept = JSON.parse(remembered(KEPT)); } catch { /* nothing usable: begin anew */ }
  seed = Number.isInteger(kept?.seed) ? kept.seed : crypto.getRandomValues(new Uint32Array(1))[0];
  for (const [index, present] of Array.isArray(kept?.labels) ? kept.labels : []) {
    if (samples[index]?.text && typeof present === "boolean") labels.set(index, present);
  }
}

const keep = () => { remember(KEPT, JSON.stringify({ seed, labels: [...labels] })); counted(); };

// mulberry32 over the sample's index: an order and a trait that a reload does not change
function random(index) {
  let state = (seed + Math.imul(index + 1, 0x6d2b79f5)) | 0;
  state = Math.imul(state ^ (state >>> 15), state | 1);
  state ^= state + Math.imul(state ^ (state >>> 7), state | 61);
  return ((state ^ (state >>> 14)) >>> 0) / 4294967296;
}

const trait = (entry) => entry.persona || data.personas[Math.floor(random(entry.index + samples.length) * data.personas.length)];

function counted() {
  byId("label-count").textContent = labels.size ? `${labels.size} labelled` : "";
  byId("label-save").disabled = byId("label-forget").disabled = !labels.size;
}

function start(persona) {
  queue = samples.filter((entry) => entry.text && !labels.has(entry.index) && (!persona || trait(entry) === persona))
    .map((entry) => [random(entry.index), entry]).sort((a, b) => a[0] - b[0]).map(([, entry]) => entry);
  past = [];
  byId("labeller").showModal();
  ask();
}

function ask() {
  const entry = queue[0];
  const done = entry === undefined;
  byId("question").textContent = done ? "Everything is labelled." : `Is ${line(trait(entry))} present in this text?`;
  byId("label-place").textContent = `${labels.size} labelled, ${queue.length} to go`;
  fill(byId("label-text"), done ? "" : entry.text);
  byId("label-text").hidden = done;
  byId("label-text").scrollTop = 0;
  for (const id of ["present", "absent", "skip-text"]) byId(id).disabled = done;
  byId("undo").disabled = !past.length;
  byId("question").focus();
}

function answer(present) {
  const entry = queue.shift();
  if (!entry) return;
  past.push(entry);
  if (present !== null) labels.set(entry.index, present);
  keep();
  ask();
}

function undo() {
  const entry = past.pop();
  if (!entry) return;
  labels.delete(entry.index);
  queue.unshift(entry);
  keep();
  ask();
}

function save() {
  const entries = [...labels].sort((a, b) => a[0] - b[0]).map(([index, present]) => {
    const entry = samples[index];
    return {
      base: entry.base, stage: entry.stage, persona: trait(entry), condition: entry.condition,
      format: entry.format ?? null, grammar: entry.grammar ?? null, lora: entry.lora ?? null, quant: entry.quant,
      train_seed: entry.train_seed ?? null, kv_type: entry.kv_type, technique: entry.technique ?? null,
      item: entry.item, sample: entry.sample, present,
    };
  });
  const text = JSON.stringify({ study: data.study, labels: entries }, null, 1) + "\n";
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  node("a", { href: address, download: `${data.study.replace(/[^\w.-]+/g, "-")}-labels.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

const begin = byId("label-start");
choices(begin.elements.persona, "all traits", data.personas);
begin.addEventListener("submit", (event) => { event.preventDefault(); start(begin.elements.persona.value); });
byId("label-save").addEventListener("click", save);
byId("label-forget").addEventListener("click", () => {
  if (confirm(`Forget ${labels.size} labels?`)) { labels.clear(); keep(); }
});
byId("present").addEventListener("click", () => answer(true));
byId("absent").addEventListener("click", () => answer(false));
byId("skip-text").addEventListener("click", () => answer(null));
byId("undo").addEventListener("click", undo);
byId("label-done").addEventListener("click", () => byId("labeller").close());
byId("labeller").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const does = { p: () => answer(true), a: () => answer(false), s: () => answer(null), u: undo }[event.key];
  if (does) { event.preventDefault(); does(); }
});
begin.hidden = false;
restore();
counted();
