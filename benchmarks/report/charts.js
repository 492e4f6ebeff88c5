"use strict";
// What the page draws: each function puts one chart on a canvas and gives it a text that says the same.
// Colours and marks differ together, so that no curve is told by colour alone.

// all can be filled: what is hollow means something
const MARKS = [["circle", 0], ["triangle", 0], ["rect", 0], ["rectRot", 0], ["triangle", 180], ["triangle", 90], ["rectRounded", 0], ["triangle", 270]];
const DAY_STEPS = [1, 2, 7, 14, 28, 91, 182, 364, 728];
const HOLLOW = "transparent";
const drawn = new Map();

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (index) => css(`--c${index % 8}`);
const mark = (index) => {
  const [pointStyle, rotation] = MARKS[(index + Math.floor(index / 8)) % 8];
  return { pointStyle, rotation, pointRotation: rotation };
};
const narrow = () => window.innerWidth < 760;
const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);

function quantile(sorted, share) {
  const place = (sorted.length - 1) * share;
  const low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
}

const ascending = (values) => [...values].sort((one, other) => one - other);
const median = (values) => quantile(ascending(values), 0.5);

function shown(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 100 || value === 0) return value.toFixed(0);
  return size >= 10 ? value.toFixed(1) : value.toPrecision(3);
}

function axis(text, more) {
  return {
    title: { display: Boolean(text), text, color: css("--soft") },
    grid: { color: css("--line") },
    border: { color: css("--line") },
    ticks: { color: css("--soft"), includeBounds: false, maxRotation: 0, autoSkipPadding: 14, font: { size: narrow() ? 10 : 12 } },
    ...more,
  };
}

function timeAxis(curves) {
  const times = curves.flatMap((curve) => curve.points.map((point) => point.x));
  const [first, last] = times.reduce(([low, high], time) => [Math.min(low, time), Math.max(high, time)], [Infinity, -Infinity]);
  const margin = Math.max((last - first) * 0.01, 3600);
  const made = axis("", { type: "linear", min: first - margin, max: last + margin });
  const labels = narrow() ? 5 : 10;
  const step = 86400 * (DAY_STEPS.find((days) => (last - first) / 86400 / days < labels) ?? DAY_STEPS.at(-1));
  made.ticks.callback = (value) => (narrow() && step < 91 * 86400 ? day(value).slice(5) : day(value));
  made.afterBuildTicks = (scale) => {
    scale.ticks = [];
    for (let at = Math.ceil(first / step) * step; at <= last; at += step) scale.ticks.push({ value: at });
    if (!scale.ticks.length) scale.ticks.push({ value: first });
  };
  return made;
}

function legend(more) {
  const labels = { color: css("--ink"), usePointStyle: true, boxHeight: 7, padding: narrow() ? 8 : 12, ...more };
  labels.font = { size: narrow() ? 11 : 12 };
  return { position: "bottom", align: "start", labels };
}

function draw(canvas, text, config) {
  drawn.get(canvas)?.destroy();
  drawn.delete(canvas);
  const box = canvas.parentElement;
  box.querySelector(".empty")?.remove();
  canvas.hidden = config === null;
  if (config === null) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = text;
    box.style.height = "auto";
    box.append(empty);
    return;
  }
  box.style.height = "";
  if (config.height) box.style.height = `${config.height}px`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", text);
  const options = { animation: false, maintainAspectRatio: false, normalized: true, ...config.options };
  drawn.set(canvas, new Chart(canvas, { type: config.type, data: config.data, options }));
}

function rolling(points, width) {
  return points.map((point, index) => {
    const window = points.slice(Math.max(0, index + 1 - width), index + 1);
    return { x: point.x, y: median(window.map((each) => each.y)) };
  });
}

function drawTrend(canvas, curves, metric, tell) {
  if (!curves.some((curve) => curve.points.length)) return draw(canvas, "No run has this figure.", null);
  const datasets = curves.flatMap((curve) => {
    const paint = colour(curve.index);
    const valid = curve.points.filter((point) => point.valid);
    const look = { borderColor: paint, ...mark(curve.index) };
    const dots = {
      ...look, label: curve.label, data: curve.points, showLine: false, backgroundColor: paint,
      pointBackgroundColor: curve.points.map((point) => (point.valid ? paint + "99" : HOLLOW)),
      pointBorderColor: curve.points.map((point) => (point.valid ? paint + "99" : paint)),
      pointRadius: curve.points.length > 400 ? 2 : 3, pointHitRadius: 6,
    };
    const line = { ...look, label: "", data: rolling(valid, 7), borderWidth: 2, pointRadius: 0, pointHitRadius: 0 };
    return [dots, line];
  });
  const hide = (event, item, made) => {
    for (const index of [item.datasetIndex, item.datasetIndex + 1]) {
      made.chart.setDatasetVisibility(index, !made.chart.isDatasetVisible(index));
    }
    made.chart.update();
  };
  const label = (item) => tell(item.raw, item.dataset.label);
  return draw(canvas, `Trend of ${metric.text} for ${curves.map((curve) => curve.label).join(", ")}`, {
    type: "line",
    data: { datasets },
    options: {
      parsing: false,
      interaction: { mode: "nearest", intersect: true },
      scales: { x: timeAxis(curves), y: axis(metric.title, { grace: "8%" }) },
      plugins: {
        legend: { ...legend({ filter: (item) => item.text !== "" }), onClick: hide },
        tooltip: { callbacks: { title: (items) => (items.length ? day(items[0].parsed.x) : ""), label } },
      },
    },
  });
}

function drawSpread(canvas, curves, metric) {
  const full = curves.filter((curve) => curve.points.some((point) => point.valid));
  if (!full.length) return draw(canvas, "No valid run has this figure.", null);
  const sorted = full.map((curve) => ascending(curve.points.filter((point) => point.valid).map((point) => point.y)));
  const between = (from, to) => sorted.map((values) => [quantile(values, from), quantile(values, to)]);
  const paints = full.map((curve) => colour(curve.index));
  const labels = full.map((curve, index) => `${curve.label} (${sorted[index].length})`);
  const low = Math.min(...sorted.map((values) => quantile(values, 0.05)));
  const high = Math.max(...sorted.map((values) => quantile(values, 0.95)));
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  const bar = { grouped: false, borderSkipped: false, minBarLength: 2 };
  const height = 70 + 34 * full.length;
  const tip = (item) => {
    const at = (share) => shown(quantile(sorted[item.dataIndex], share));
    return `median ${at(0.5)}, half within ${at(0.25)} to ${at(0.75)}, nine tenths within ${at(0.05)} to ${at(0.95)}`;
  };
  const middle = sorted.map((values, index) => ({ x: quantile(values, 0.5), y: labels[index] }));
  return draw(canvas, `Distribution of ${metric.text}: ${middle.map((at) => `${at.y} median ${shown(at.x)}`).join(", ")}`, {
    type: "bar",
    height,
    data: {
      labels,
      datasets: [
        { type: "scatter", data: middle, pointStyle: "line", rotation: 90, radius: 9, borderWidth: 3, borderColor: css("--card") },
        { ...bar, data: between(0.25, 0.75), barThickness: 16, backgroundColor: paints },
        { ...bar, data: between(0.05, 0.95), barThickness: 3, backgroundColor: paints },
      ],
    },
    options: {
      indexAxis: "y",
      scales: { x: axis(metric.title, { min: low - room, max: high + room }), y: categories() },
      plugins: { legend: { display: false }, tooltip: { callbacks: { label: tip } } },
    },
  });
}

function categories() {
  const made = axis("", { type: "category", offset: true });
  made.grid = { display: false };
  made.ticks.color = css("--ink");
  made.ticks.autoSkip = false;
  made.ticks.callback = function (value) {
    return folded(this.getLabelForValue(value), narrow() ? 20 : 34);
  };
  return made;
}

// a long label over two lines, cut where even those are too short
function folded(label, width) {
  if (label.length <= width) return label;
  const space = label.lastIndexOf(" ", width);
  const at = space > 0 ? space : width;
  const rest = label.slice(at).trim();
  return [label.slice(0, at), rest.length > width ? `${rest.slice(0, width - 1)}…` : rest];
}

// Nothing else is smaller, faster and at least as faithful; a quality that is not known equals only itself.
function front(points) {
  const beats = (one, other) =>
    one.x <= other.x && one.y >= other.y && (one.quality === other.quality || (one.quality !== null && other.quality !== null && one.quality <= other.quality))
    && (one.x < other.x || one.y > other.y || one.quality < other.quality);
  return points.filter((point) => !points.some((other) => beats(other, point)));
}

function drawPareto(canvas, points, speed) {
  if (!points.length) return draw(canvas, "No valid run says how large its artifact is and how fast it decodes.", null);
  const best = new Set(front(points));
  const datasets = points.map((point) => ({
    label: `${point.label}: ${point.quality === null ? "quality not measured" : `KLD ${shown(point.quality)}`}`,
    data: [point], ...mark(point.index), radius: narrow() ? 8 : 10, hoverRadius: 11, borderWidth: 2,
    borderColor: colour(point.index), backgroundColor: best.has(point) ? colour(point.index) : HOLLOW,
  }));
  const tip = (item) => `${item.dataset.label}; ${shown(item.raw.x)} MB, ${shown(item.raw.y)} ${speed.unit}`;
  return draw(canvas, datasets.map((set) => `${set.label}; ${shown(set.data[0].x)} MB, ${shown(set.data[0].y)} ${speed.unit}`).join(". "), {
    type: "scatter",
    data: { datasets },
    options: {
      scales: { x: axis("artifact, MB (less is better)", { grace: "12%" }), y: axis(`${speed.title}`, { grace: "12%" }) },
      plugins: { legend: legend({}), tooltip: { callbacks: { label: tip } } },
    },
  });
}

function drawShare(canvas, bars, title, limit) {
  if (!bars.length) return draw(canvas, "No valid run says how much of its bytes a second the device can read.", null);
  const labels = bars.map((bar) => bar.label);
  const x = axis(title, { min: 0, ...(limit ? { max: limit } : {}) });
  return draw(canvas, bars.map((bar) => `${bar.label} ${shown(bar.value)}`).join(", "), {
    type: "bar",
    height: 70 + 34 * bars.length,
    data: { labels, datasets: [{ data: bars.map((bar) => bar.value), barThickness: 16, backgroundColor: bars.map((bar) => colour(bar.index)) }] },
    options: {
      indexAxis: "y",
      scales: { x, y: categories() },
      plugins: { legend: { display: false }, tooltip: { callbacks: { label: (item) => shown(item.raw) } } },
    },
  });
}

function drawTraces(canvas, traces, name, title) {
  const some = traces.filter((trace) => trace[name].length);
  if (!some.length) return draw(canvas, "No run of this case sampled a temperature.", null);
  const last = Math.max(...some.map((trace) => trace[name].at(-1)[0]));
  const datasets = some.map((trace) => ({
    label: trace.label, data: trace[name].map(([x, y]) => ({ x, y })), borderColor: colour(trace.index), borderWidth: 2,
    backgroundColor: colour(trace.index), ...mark(trace.index), pointRadius: (point) => (point.dataIndex % 12 === 6 ? 4 : 0),
  }));
  return draw(canvas, `${title} over ${shown(last)} s of ${some.map((trace) => trace.label).join(", ")}`, {
    type: "line",
    data: { datasets },
    options: {
      parsing: false,
      interaction: { mode: "index", intersect: false },
      scales: { x: axis("s since the start", { type: "linear", max: Math.ceil(last) }), y: axis(title, { grace: "10%" }) },
      plugins: { legend: name === "temperature" ? { ...legend({}), position: "top" } : { display: false }, tooltip: { itemSort: (one, other) => other.parsed.y - one.parsed.y } },
    },
  });
}
