"use strict";
// The page's state is what its five selects say; everything is drawn again from the data when one changes.
// Strings of the records reach the document as text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const select = Object.fromEntries(["device", "model", "kind", "metric", "period"].map((id) => [id, by(id)]));
const DAY = 86400;
const LATEST = 5;
const SPEED = "decode_tok_s";
const HEADLINES = [SPEED, "ttft_ms", "prefill_tok_s", "load_cold_ms", "load_warm_ms", "sustained_tok_s", "peak_pss_bytes", "peak_vm_hwm_bytes",
  "peak_phys_footprint_bytes", "joules_per_token", "bandwidth_share"];

function prepare() {
  data.metrics.forEach((metric) => {
    const wish = { less: " (less is better)", more: " (more is better)", open: "" }[metric.better];
    metric.title = `${metric.text}${metric.unit ? `, ${metric.unit}` : ""}${wish}`;
  });
  const protocols = new Set(data.groups.map((group) => group.protocol));
  data.groups.forEach((group) => {
    group.place = `${group.device} · ${group.series}`;
    const random = group.weights === "random" ? ", random weights" : "";
    group.label = `${group.backend} ${group.scheme}${random}${protocols.size > 1 ? `, ${group.protocol}` : ""}`;
  });
  data.end = data.runs.time ? data.runs.time.reduce((one, other) => Math.max(one, other), 0) : 0;
}

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function table(box, columns, rows, empty) {
  box.replaceChildren();
  if (!rows.length) return box.append(element("p", empty, "empty"));
  const made = element("table");
  const head = made.createTHead().insertRow();
  columns.forEach(([title, , look]) => {
    const cell = element("th", title, look);
    cell.scope = "col";
    head.append(cell);
  });
  const body = made.createTBody();
  rows.forEach((row) => {
    const line = body.insertRow();
    columns.forEach(([, tell, look]) => {
      const told = tell(row);
      const cell = line.insertCell();
      if (look) cell.className = look;
      cell.append(told instanceof Node ? told : document.createTextNode(told));
    });
  });
  return box.append(made);
}

function fill(box, options, wanted) {
  const before = wanted ?? box.value;
  box.replaceChildren(...options.map(([value, text]) => {
    const option = element("option", text);
    option.value = value;
    return option;
  }));
  if (options.some(([value]) => value === before)) box.value = before;
}

const unique = (values) => [...new Set(values)];

function fillFilters() {
  const places = unique(data.groups.map((group) => group.place)).sort();
  fill(select.device, places.map((place) => [place, place]));
  const here = data.groups.filter((group) => group.place === select.device.value);
  fill(select.model, unique(here.map((group) => group.model)).sort().map((model) => [model, model]));
  const chosen = new Set(groups().map((group) => group.index));
  const cases = Object.keys(data.cases).filter((name) => data.cases[name].run.some((run) => chosen.has(data.runs.group[run])));
  const warm = cases.find((name) => name.startsWith("warm"));
  fill(select.kind, cases.map((name) => [name, name]), cases.includes(select.kind.value) ? undefined : warm);
  const values = current().values;
  const offered = data.metrics.filter((metric) => metric.name in values);
  fill(select.metric, offered.map((metric) => [metric.name, metric.title]), select.metric.value in values ? undefined : SPEED);
  fill(select.period, [["30", "last 30 days"], ["90", "last 90 days"], ["365", "last year"], ["0", "everything"]], select.period.value || "90");
}

const caseOf = (name) => data.cases[name] ?? { run: [], values: {} };
const current = () => caseOf(select.kind.value);

function groups() {
  return data.groups.map((group, index) => ({ ...group, index }))
    .filter((group) => group.place === select.device.value && group.model === select.model.value)
    .sort((one, other) => one.label.localeCompare(other.label));
}

// rows of a case, per group: places in its columns, oldest first
function rowsOf(chosen, name) {
  const since = select.period.value === "0" ? 0 : data.end - Number(select.period.value) * DAY;
  const rows = new Map(chosen.map((group) => [group.index, []]));
  const { run } = caseOf(name);
  for (let row = 0; row < run.length; row += 1) {
    if (data.runs.time[run[row]] < since) continue;
    rows.get(data.runs.group[run[row]])?.push(row);
  }
  rows.forEach((list) => list.sort((one, other) => data.runs.time[run[one]] - data.runs.time[run[other]]));
  return rows;
}

const valid = (row) => data.runs.valid[current().run[row]] === 1;

function curvesOf(chosen, rows, name) {
  const values = current().values[name] ?? [];
  return chosen.map((group, place) => ({
    label: group.label,
    index: place,
    points: rows.get(group.index)
      .filter((row) => (values[row] ?? null) !== null && (by("invalid").checked || valid(row)))
      .map((row) => ({ x: data.runs.time[current().run[row]], y: values[row], valid: valid(row), row })),
  }));
}

// the median of a group's latest valid values: one night alone says little
function latest(rows, name, where = select.kind.value) {
  const { run, values: columns } = caseOf(where);
  const values = columns[name] ?? [];
  const found = rows.filter((row) => data.runs.valid[run[row]] === 1 && (values[row] ?? null) !== null).slice(-LATEST);
  return found.length ? median(found.map((row) => values[row])) : null;
}

function lastOf(rows, column) {
  const found = rows.filter((row) => valid(row) && data.runs[column][current().run[row]] !== null);
  return found.length ? data.runs[column][current().run[found.at(-1)]] : null;
}

function tell(point, label) {
  const run = current().run[point.row];
  const runtime = data.runs.runtime[run];
  return [
    `${label}: ${shown(point.y)}${point.valid ? "" : " (not valid)"}`,
    `${data.runs.id[run]} ${data.runs.commit[run]}`, ...(runtime ? [runtime] : []),
  ];
}

function hasRows(chosen, name, metric) {
  const { values } = caseOf(name);
  return [...rowsOf(chosen, name).values()].some((rows) => rows.some((row) => (values[metric][row] ?? null) !== null));
}

function showLatest(chosen, rows) {
  // loads and memory are measured in cases of their own: each column says which, where it isn't the chosen one
  const known = new Map(data.metrics.map((metric) => [metric.name, metric]));
  const cases = [select.kind.value, ...Object.keys(data.cases)];
  const picked = HEADLINES.map((name) => ({ ...known.get(name), from: cases.find((each) => name in caseOf(each).values && hasRows(chosen, each, name)) }))
    .filter((metric) => metric.from);
  const places = new Map(picked.map((metric) => [metric.from, rowsOf(chosen, metric.from)]));
  const value = (metric, group) => latest(places.get(metric.from).get(group.index), metric.name, metric.from);
  const number = (metric) => [`${metric.text}${metric.unit ? `, ${metric.unit}` : ""}${metric.from === select.kind.value ? "" : ` (${metric.from})`}`,
    (group) => shown(value(metric, group)), "number"];
  const size = (group) => {
    const bytes = lastOf(rows.get(group.index), "size");
    return shown(bytes === null ? null : bytes / 1e6);
  };
  const run = (group) => (rows.get(group.index).length ? day(data.runs.time[current().run[rows.get(group.index).at(-1)]]) : "–");
  const some = chosen.filter((group) => rows.get(group.index).length);
  by("latest").querySelector(".how").textContent =
    `Each figure is the median of the last ${LATEST} valid runs of this case within the period; – is not measured, reasons below.`;
  table(by("latest").querySelector(".wide"), [
    ["format", (group) => group.label, "short"],
    ...picked.map(number),
    ["artifact, MB", size, "number"],
    ["KLD", (group) => shown(lastOf(rows.get(group.index), "quality")), "number"],
    ["valid runs", (group) => `${rows.get(group.index).filter(valid).length} of ${rows.get(group.index).length}`, "number"],
    ["last run", run, "short"],
  ], some, "No run of this case within the period.");
  const words = { joules_per_token: "energy", bandwidth_share: "share of read bandwidth" };
  const from = (name) => picked.find((metric) => metric.name === name);
  const missing = (each) => (from(each.metric)
    ? each.case === from(each.metric).from && value(from(each.metric), { index: each.group }) === null
    : each.metric in words && each.case === select.kind.value);
  const here = new Map(some.map((group) => [group.index, group]));
  const reasons = new Map();
  data.reasons.filter((each) => here.has(each.group) && missing(each))
    .forEach((each) => {
      const key = `${known.get(each.metric)?.text ?? words[each.metric]}: ${each.reason}`;
      reasons.set(key, [...(reasons.get(key) ?? []), here.get(each.group).label]);
    });
  by("latest").querySelector(".reasons").replaceChildren(
    ...[...reasons].map(([reason, labels]) => element("li", labels.length === some.length ? reason : `${reason} (${labels.join("; ")})`)));
}

function showCharts(chosen, rows) {
  const metric = data.metrics.find((each) => each.name === select.metric.value);
  if (!metric) return ["trend", "spread", "pareto", "roofline"].forEach((id) => draw(by(id).querySelector("canvas"), "No run has a figure.", null));
  const curves = curvesOf(chosen, rows, metric.name);
  const say = (id, text) => { by(id).querySelector(".how").textContent = text; };
  say("trend", `${metric.title}. A mark is a run; a line is the median of the seven valid runs up to it.${by("invalid").checked ? " A hollow mark is a run that is not valid." : ""}`);
  drawTrend(by("trend").querySelector("canvas"), curves, metric, tell);
  say("spread", `${metric.title}. Thick: half of the valid runs; thin: nine tenths; stroke: median; in brackets: runs.`);
  drawSpread(by("spread").querySelector("canvas"), curves, metric);
  const speed = data.metrics.find((each) => each.name === SPEED);
  const points = chosen.map((group, place) => {
    const list = rows.get(group.index);
    const bytes = lastOf(list, "size");
    return { label: group.label, index: place, x: bytes === null ? null : bytes / 1e6, y: speed ? latest(list, speed.name) : null, quality: lastOf(list, "quality") };
  }).filter((point) => point.x !== null && point.y !== null);
  say("pareto", "Filled: nothing here is smaller, faster and at least as faithful. KLD: divergence from the float model, less is better.");
  drawPareto(by("pareto").querySelector("canvas"), points, speed);
  const barsOf = (name) => chosen.map((group, place) => ({ label: group.label, index: place, value: latest(rows.get(group.index), name) }))
    .filter((bar) => bar.value !== null);
  const shares = barsOf("bandwidth_share");
  say("roofline", shares.length ? "Bytes that decoding must read, times tokens a second, of the bytes a second that the device can read."
    : "Bytes that decoding must read, times tokens a second. What share of the device's read bandwidth that is isn't known here: see report --bandwidth.");
  if (shares.length) drawShare(by("roofline").querySelector("canvas"), shares, "% of read bandwidth", 100);
  else drawShare(by("roofline").querySelector("canvas"), barsOf("decode_read_bytes_per_s"), "GB/s");
}

function showTraces(chosen) {
  const places = new Map(chosen.map((group, place) => [group.index, { label: group.label, index: place }]));
  const here = data.traces.filter((trace) => places.has(trace.group));
  const long = here.filter((trace) => trace.case.startsWith("sustained"));
  const picked = (long.length ? long : here.filter((trace) => trace.case === select.kind.value))
    .map((trace) => ({ ...trace, ...places.get(trace.group) })).sort((one, other) => one.index - other.index);
  by("thermal").querySelector(".how").textContent = picked.length
    ? `The newest run of ${unique(picked.map((trace) => trace.case)).join(", ")} of each format: its hottest sensor, and tokens a second while decoding.` : "";
  drawTraces(by("temperature"), picked, "temperature", "°C");
  if (picked.length) drawTraces(by("pace"), picked, "pace", "tokens/s");
  by("pace").parentElement.hidden = !picked.length;
}

// apart from what was measured: no device had a part in it
function showPredicted(chosen) {
  const labels = new Map(chosen.map((group) => [group.index, group.label]));
  by("predicted").querySelector(".how").textContent = "What a decoded token moves and computes, times costs that are stated with each record; no device was asked.";
  const millions = (name) => (row) => shown(row[name] / 1e6);
  table(by("predicted").querySelector(".wide"), [
    ["format", (row) => labels.get(row.group), "short"], ["case", (row) => row.case, "short"],
    ["predicted, mJ/token", (row) => shown(row.joules_per_token * 1e3), "number"],
    ["moved, MB/token", millions("bytes_per_token"), "number"], ["million operations/token", millions("operations_per_token"), "number"],
  ], data.predicted.filter((row) => labels.has(row.group)), "Nothing was predicted for these.");
}

function showTables() {
  const counted = (id, how, columns, rows, empty) => {
    by(id).querySelector(".how").textContent = how;
    table(by(id).querySelector(".wide"), columns, rows, empty);
  };
  const ends = [["cases", (row) => String(row.count), "number"], ["last", (row) => day(row.last), "short"]];
  const effective = (row) => element("span", row.effective, row.effective === row.requested ? "" : "differs");
  const differing = data.backends.filter((row) => row.requested !== row.effective);
  counted("backends", `${differing.length} of ${data.backends.length} combinations ran on another backend than asked for; all devices.`,
    [["device", (row) => row.device, "short"], ["artifact", (row) => row.artifact, "short"], ["requested", (row) => row.requested, "short"], ["effective", effective, "short"], ...ends],
    [...differing, ...data.backends.filter((row) => row.requested === row.effective)], "No runner said which backend it used.");
  const invalid = (data.runs.valid ?? []).filter((flag) => !flag).length;
  counted("violations", `${invalid} of ${(data.runs.id ?? []).length} runs are not valid and count in no median; all devices.`,
    [["device", (row) => row.device, "short"], ["violation", (row) => row.violation, "text"], ...ends], data.violations, "Every run is valid.");
  const others = Object.entries(data.statuses).filter(([status]) => status !== "ok");
  const total = others.reduce((sum, [, count]) => sum + count, 0);
  const all = total > data.failures.length ? ` Shown: the newest ${data.failures.length}.` : "";
  counted("failures", `${others.map(([status, count]) => `${status} ${count}`).join(", ") || "Nothing"} of ${total + (data.statuses.ok ?? 0)} cases; all devices.${all}`,
    [["day", (row) => day(row.time), "short"], ["device", (row) => `${row.device}${["vm", "emulator"].includes(row.device_kind) ? ` (${row.device_kind})` : ""}`, "short"],
      ["artifact", (row) => row.artifact, "short"], ["case", (row) => row.case, "short"], ["status", (row) => row.status, "short"], ["reason", (row) => row.reason, "text"], ["run", (row) => row.run, "short"]],
    data.failures, "Every case ran to its end.");
  counted("virtual", "They show whether files run and give the right tokens, never how fast: no figure of theirs is on this page.",
    [["device", (row) => row.device, "short"], ["kind", (row) => row.kind, "short"], ["artifact", (row) => row.artifact, "short"],
      ...[["ran", "ok"], ["did not end", "other"], ["tokens equal", "same"], ["tokens differ", "differ"], ["not compared", "unknown"]].map(([title, name]) => [title, (row) => String(row[name] ?? 0), "number"])],
    data.virtual, "No run of a virtual machine or an emulator.");
}

function show() {
  const chosen = groups();
  const rows = rowsOf(chosen, select.kind.value);
  showLatest(chosen, rows);
  showCharts(chosen, rows);
  showTraces(chosen);
  showPredicted(chosen);
}

function start() {
  prepare();
  fillFilters();
  const count = (data.runs.id ?? []).length;
  const first = count ? data.runs.time.reduce((one, other) => Math.min(one, other)) : 0;
  const devices = unique(data.groups.map((group) => group.device)).length;
  by("summary").textContent = count
    ? `${count.toLocaleString("en")} runs on ${devices} ${devices === 1 ? "device" : "devices"}, ${day(first)} to ${day(data.end)}.` : "No run of a real device is in the store yet.";
  by("synthetic").hidden = !data.synthetic;
  by("foot").textContent = `Made ${data.made_at}. Days are UTC. Charts: Chart.js 4.5.1 (MIT).`;
  by("filters").addEventListener("change", () => { fillFilters(); show(); });
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  let width = narrow();
  window.addEventListener("resize", () => { if (narrow() !== width) { width = narrow(); show(); } });
  showTables();
  show();
  document.documentElement.dataset.drawn = "yes";
}

start();
