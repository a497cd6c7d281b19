(() => {
"use strict";
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

// --- charts ---------------------------------------------------------------------------------------------------------
const source = one("#chart-data");
const data = source ? JSON.parse(source.textContent) : {};
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [5, 2], [1, 4]];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const faint = (hex) => hex + "2b";
const pad = (number) => String(number).padStart(2, "0");
const percent = (value) => `${+(100 * value).toFixed(1)} %`;
const money = (value) => {
  if (value === 0) return "$0";
  const places = Math.min(8, Math.max(2, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return "$" + value.toFixed(places);
};
const written = (kind) => (kind === "cost" ? money : percent);
const ticks = (kind, splits) => {
  if (kind !== "cost") return splits.map((value) => (value === null || value > 1 ? "" : percent(value)));
  const step = Math.abs(splits.at(-1) - splits.at(-2)) || 1;
  const places = Math.min(8, Math.max(2, Math.ceil(-Math.log10(step) - 1e-9) + (/^[1-9]0*$/.test(String(+(step * 10 ** Math.ceil(-Math.log10(step) - 1e-9)).toFixed(6))) ? 0 : 1)));
  return splits.map((value) => (value === null ? "" : value === 0 ? "$0" : "$" + value.toFixed(places)));
};
const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const hourOrDay = (seconds, step) => {
  const when = new Date(seconds * 1000), hours = when.getUTCHours();
  if (step < 86400 && (hours || when.getUTCMinutes())) return `${pad(hours)}:${pad(when.getUTCMinutes())}`;
  return step >= 27 * 86400 ? `${months[when.getUTCMonth()]} ${when.getUTCFullYear()}` : `${when.getUTCDate()} ${months[when.getUTCMonth()]}`;
};
const placeWords = (task, kind, x) => {
  if (kind === "latency") return `within ${x} s`;
  if (task.axis === "round") return task.width > 1 ? `rounds ${x} to ${x + task.width - 1}` : `round ${x}`;
  const when = new Date(x * 1000);
  const day = `${when.getUTCDate()} ${months[when.getUTCMonth()]} ${when.getUTCFullYear()}`;
  return task.width % 86400 ? `${day}, ${pad(when.getUTCHours())}:00` : day;
};
const lineWords = (line, kind, at) => {
  const value = line.y[at];
  if (value === null || value === undefined) return null;
  const write = written(kind);
  const band = line.low && line.low[at] !== null ? ` (${write(line.low[at])} to ${write(line.high[at])}, ${line.n[at]} runs)` : "";
  return `${line.name} ${write(value)}${band}`;
};

const marksOf = (task) => ({
  hooks: {
    draw: (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.strokeStyle = colour("--ink");
      ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.lineWidth = devicePixelRatio;
      for (const [at] of task.marks) {
        const x = plot.valToPos(at, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      }
      ctx.restore();
    },
  },
});

const options = (task, kind, lines, width, readout, rest) => {
  const series = [{}], bands = [];
  for (const line of lines) {
    const number = task.colours[line.name] % 6, ink = colour("--s" + number);
    const crowded = lines.length * line.y.length > 150;
    series.push({ label: line.name, stroke: ink, width: 2, dash: DASHES[number], spanGaps: true, points: { show: kind !== "latency" && !crowded, size: 6, fill: ink } });
    if (line.low) {
      const at = series.length;
      series.push({ show: true, stroke: "transparent", width: 0, points: { show: false } }, { show: true, stroke: "transparent", width: 0, points: { show: false } });
      bands.push({ series: [at + 1, at], fill: faint(ink) });
    }
  }
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 }, font: "12px sans-serif" };
  const x = kind === "latency"
    ? { ...axis, splits: () => [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120].filter((value) => value >= task.edges[0] && value <= task.edges.at(-1)), filter: (_, splits) => splits, values: (_, splits) => splits.map((value) => `${value} s`) }
    : task.axis === "round" ? { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000], values: (_, splits) => splits.map((value) => value) } : { ...axis, space: 70, values: (_, splits, __, ___, step) => splits.map((value) => hourOrDay(value, step)) };
  const few = task.x.length < 2;
  return {
    width, height: 210, bands, series,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 8 } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: {
      x: kind === "latency" ? { time: false, distr: 3, range: () => [task.edges[0], Math.max(task.edges.at(-1), 2 * task.edges[0])] } : { time: task.axis === "time", ...(few ? { range: () => [task.x[0] - task.width, task.x[0] + task.width] } : {}) },
      y: { range: (_, low, high) => (kind === "cost" ? [0, (high || 1) * 1.05] : [kind === "latency" ? 0 : Math.max(0, Math.floor(10 * (low - 0.001)) / 10), 1.02]) },
    },
    axes: [x, { ...axis, size: kind === "cost" ? 76 : 56, values: (_, splits) => ticks(kind, splits) }],
    plugins: kind === "latency" || !task.marks.length ? [] : [marksOf(task)],
    hooks: {
      setCursor: [(plot) => {
        const at = plot.cursor.idx;
        if (at === null || at === undefined) { readout.textContent = rest; return; }
        const place = placeWords(task, kind, plot.data[0][at]);
        readout.textContent = `${place}: ${lines.map((line) => lineWords(line, kind, at)).filter(Boolean).join(" · ") || "nothing"}`;
      }],
    },
  };
};

const drawn = new Map();
const draw = (box) => {
  const task = data[box.dataset.task], kind = box.dataset.kind;
  const lines = task && task.charts[kind];
  if (!lines || typeof uPlot === "undefined") return;
  const old = drawn.get(box);
  if (old) old.destroy();
  const readout = one(".readout", box.parentElement);
  const rest = readout.dataset.rest || (readout.dataset.rest = readout.textContent);
  const columns = [kind === "latency" ? task.edges : task.x];
  for (const line of lines) {
    columns.push(line.y);
    if (line.low) columns.push(line.low, line.high);
  }
  drawn.set(box, new uPlot(options(task, kind, lines, box.clientWidth, readout, rest), columns, box));
};
const plots = all(".plot");
const redraw = () => { for (const box of drawn.keys()) draw(box); };
if (plots.length) {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "600px" });
  plots.forEach((box) => seen.observe(box));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { for (const [box, plot] of drawn) plot.setSize({ width: box.clientWidth, height: 210 }); }, 100);
  });
  const paper = (on) => () => {
    document.documentElement.classList.toggle("paper", on);
    if (on) plots.forEach(draw); else redraw();
  };
  addEventListener("beforeprint", paper(true));
  addEventListener("afterprint", paper(false));
}

const numbers = (box, task) => {
  for (const [kind, lines] of Object.entries(task.charts)) {
    const title = { success: "Success rate", json: "JSON validity", cost: "Cost per success", latency: "Latency" }[kind];
    const table = make("table", undefined, { class: "plain" });
    table.append(make("caption", title));
    const head = make("tr");
    head.append(make("th", kind === "latency" ? "Within" : task.axis === "round" ? "Rounds" : "From (UTC)", { scope: "col" }));
    for (const line of lines) head.append(make("th", line.name, { scope: "col" }));
    const top = make("thead");
    top.append(head);
    const body = make("tbody");
    (kind === "latency" ? task.edges : task.x).forEach((x, at) => {
      const row = make("tr");
      row.append(make("th", kind === "latency" ? `${x} s` : placeWords(task, kind, x).replace(/^rounds? /, ""), { scope: "row" }));
      for (const line of lines) row.append(make("td", (lineWords(line, kind, at) || `${line.name} –`).slice(line.name.length + 1)));
      body.append(row);
    });
    table.append(top, body);
    const scroll = make("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": title });
    scroll.append(table);
    box.append(scroll);
  }
};
for (const details of all("details.numbers")) {
  details.addEventListener("toggle", () => {
    const box = one("div", details), task = data[details.dataset.task];
    if (details.open && task && !box.childElementCount) numbers(box, task);
  });
}

// --- the overview's filter ------------------------------------------------------------------------------------------
const filter = one("#filter");
if (filter) {
  const rows = all(".routes tbody tr"), texts = rows.map((row) => row.textContent.toLowerCase());
  const words = one("#filter-words"), verdict = one("#filter-verdict"), count = one("#filter-count");
  const apply = () => {
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !texts[at].includes(words.value.trim().toLowerCase()) || (verdict.value !== "" && row.dataset.verdict !== verdict.value);
      shown += !row.hidden;
    });
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  filter.hidden = false;
  filter.addEventListener("submit", (event) => event.preventDefault());
  words.addEventListener("input", apply);
  verdict.addEventListener("change", apply);
  apply();
}

// --- live pages: the token, and news --------------------------------------------------------------------------------
const KEY = "tierwise-token";
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given && one("meta[name=tierwise-state]")) {
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname + location.search);
}
for (const form of all("form.act")) {
  const field = one("input[name=token]", form), kept = sessionStorage.getItem(KEY);
  if (kept) field.value = kept;
  form.addEventListener("submit", () => sessionStorage.setItem(KEY, field.value));
}
const state = one("meta[name=tierwise-state]"), live = one("#live");
if (state && live) {
  const look = async () => {
    try {
      const answer = await fetch("/state", { cache: "no-store" });
      const now = answer.ok ? await answer.text() : null;
      if (now !== null && now !== state.content && !live.childElementCount) {
        live.textContent = "There is something new. ";
        live.append(make("a", "Show it", { href: location.pathname + location.search }));
      }
    } catch {
      live.textContent = "tierwise serve does not answer: was it stopped?";
      return;
    }
    setTimeout(look, document.hidden ? 60000 : 5000);
  };
  setTimeout(look, 5000);
}
})();
