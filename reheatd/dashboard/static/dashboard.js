// Draws every .chart from the JSON of its data-src (see charts.py), and says when the daemon is away.
"use strict";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
const LEVELS = { baseline: "--muted", collapsed: "--bad", warning: "--warn", too_hot: "--hot", target: "--good" };
const MARKS = { promoted: "--good", collapsed: "--bad", job: "--line-1", request: "--warn", other: "--muted" };
const HEIGHT = 300;
const DAY = "\n{D} {MMM}", DATE = "\n{D} {MMM} {YYYY}";
const CLOCK = [  // labels of the time axis: from this distance of ticks on, and with what where a year or day begins
  [31536000, "{YYYY}", null, null, null, null, null, null, 1],
  [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", DATE, null, DAY, null, null, null, 1],
  [1e-3, "{HH}:{mm}:{ss}", DATE, null, DAY, null, null, null, 1],
];
const shown = (value) => value?.toPrecision(3) ?? "–";

function behind(chart) {  // levels, spans and marks, which uPlot does not know
  return (u) => {
    const { ctx, bbox } = u, ratio = devicePixelRatio;
    const at = (x) => u.valToPos(x, "x", true);
    ctx.save();
    ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`; ctx.textAlign = "left"; ctx.textBaseline = "alphabetic";
    chart.spans.forEach((span, index) => {
      const from = Math.max(at(span.start), bbox.left), to = Math.min(at(span.end), bbox.left + bbox.width);
      ctx.fillStyle = css(index % 2 ? "--span-odd" : "--span-even");
      ctx.fillRect(from, bbox.top, to - from, bbox.height);
      ctx.fillStyle = css("--muted");
      if (to - from > ctx.measureText(span.label).width + 8 * ratio) ctx.fillText(span.label, from + 4 * ratio, bbox.top + 12 * ratio);
    });
    const line = (colour, from, to, dash) => {
      ctx.strokeStyle = css(colour); ctx.lineWidth = ratio; ctx.setLineDash(dash.map((length) => length * ratio));
      ctx.beginPath(); ctx.moveTo(...from); ctx.lineTo(...to); ctx.stroke();
    };
    for (const mark of chart.marks) line(MARKS[mark.kind], [at(mark.x), bbox.top], [at(mark.x), bbox.top + bbox.height], [2, 3]);
    ctx.textAlign = "right";
    let above = Infinity;  // labels of levels that are close to each other would overlap
    for (const level of chart.levels.toSorted((a, b) => a.value - b.value)) {
      const y = u.valToPos(level.value, "y", true), text = Math.min(y - 4 * ratio, above - 12 * ratio);
      line(LEVELS[level.kind], [bbox.left, y], [bbox.left + bbox.width, y], [6, 4]);
      ctx.fillStyle = css(LEVELS[level.kind]);
      ctx.fillText(`${level.label} ${shown(level.value)}`, bbox.left + bbox.width - 4 * ratio, text);
      above = text;
    }
    ctx.restore();
  };
}

function options(chart, width, zoomed) {
  const axis = { stroke: css("--text"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--grid") } };
  const named = chart.ticks ? { values: (_, splits) => splits.map((x) => chart.ticks[x] ?? ""), incrs: [1, 2, 4] } : { values: chart.is_time ? CLOCK : undefined };
  const series = [{ label: chart.is_time ? "time" : chart.ticks ? "tokens" : "step", value: chart.ticks ? (_, x) => chart.ticks[x] ?? "–" : chart.is_time ? "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" : undefined }];
  const bands = [], data = [chart.x], edges = {};
  chart.lines.forEach((line, index) => {
    const colour = css(COLOURS[index % COLOURS.length]), at = series.length;
    data.push(line.values);
    const value = (u, v, _, i) => i != null && v != null && line.low ? `${shown(v)} [${shown(line.low[i])}, ${shown(line.high[i])}]` : shown(v);
    series.push({ label: line.label, stroke: colour, width: 1.5, spanGaps: true, points: { show: line.values.filter((v) => v != null).length < 60, size: 6 }, value });
    if (line.low) {
      data.push(line.high, line.low);
      for (const edge of ["high", "low"]) series.push({ label: edge, class: "edge", stroke: "transparent", spanGaps: true, points: { show: false } });
      bands.push({ series: [at + 1, at + 2], fill: colour + "33" });
      edges[at] = [at + 1, at + 2];
    }
  });
  const known = [...chart.lines.flatMap((line) => [...line.values, ...(line.low ?? [])]), ...chart.levels.map((level) => level.value)].filter((v) => v != null);
  const steep = chart.is_time && Math.min(...known) > 0 && Math.max(...known) > 5 * Math.min(...known);  // a logarithmic axis shows falls
  const range = (_, low, high) => {
    if (low == null) return steep ? [0.1, 1] : [0, 1];
    const levels = chart.levels.map((level) => level.value), least = Math.min(low, ...levels), most = Math.max(high, ...levels);
    return steep ? [least / 1.2, most * 1.2] : uPlot.rangeNum(least, most, 0.08, true);
  };
  return [{
    width, height: HEIGHT, series, bands, axes: [{ ...axis, ...named }, { ...axis, label: chart.unit, size: 56, labelSize: 20 }],
    cursor: { drag: { x: true, y: false } }, scales: { x: { time: chart.is_time }, y: { range, distr: steep ? 3 : 1 } },
    hooks: {
      drawAxes: [behind(chart)],
      setScale: [(u, key) => key === "x" && zoomed(u)],
      setSeries: [(u, at, { show }) => show != null && edges[at]?.forEach((edge) => u.setSeries(edge, { show }))],
    },
  }, data];
}

async function draw(box) {
  const url = new URL(box.dataset.src, location.href);
  for (const [key, value] of Object.entries(box.zoom ?? {})) url.searchParams.set(key, value);
  const answer = await fetch(url).catch(() => undefined);
  document.body.classList.toggle("is-away", !answer);
  if (!answer) return;
  if (!answer.ok) { box.textContent = `The curve cannot be shown: ${(await answer.json()).error.message}`; return; }
  const tag = answer.headers.get("etag"), known = box.tag, chart = await answer.json();
  if (tag && tag === known) return;
  box.tag = tag;
  if (!chart.x.length) { box.textContent = "There is nothing to show yet."; return; }
  let ready = false;
  const zoomed = (u) => {  // asks for the stretch alone, which has more detail
    const { min, max } = u.scales.x, whole = min <= chart.x[0] && max >= chart.x.at(-1);
    if (!ready || chart.ticks || (whole && !box.zoom) || (box.zoom?.start === min && box.zoom?.end === max)) return;
    box.zoom = whole ? undefined : { start: min, end: max };
    clearTimeout(box.pending); box.pending = setTimeout(draw, 150, box);
  };
  const hidden = box.plot?.series.map((series) => !series.show) ?? [];
  box.plot?.destroy(); box.textContent = "";
  box.plot = new uPlot(...options(chart, box.clientWidth, zoomed), box);
  hidden.forEach((is, index) => is && box.plot.series[index] && box.plot.setSeries(index, { show: false }));
  setTimeout(() => { ready = true; });
  if (known && box.dataset.follow) follow(box);
}

function follow(box) {  // what stands beside the curve is about the same stretch
  const url = new URL(location.href);
  for (const [key, value] of Object.entries(box.zoom ?? {})) url.searchParams.set(key, value);
  htmx.ajax("GET", url.pathname + url.search, { target: box.dataset.follow, select: box.dataset.follow, swap: "morph:outerHTML" });
}

function start(box) {
  draw(box);
  const timer = box.dataset.live && setInterval(() => box.isConnected ? document.hidden || box.zoom || draw(box) : clearInterval(timer), 1000 * box.dataset.live);
  box.addEventListener("dblclick", () => { box.zoom = undefined; draw(box); });
}

htmx.createEventSource = (url) => {  // a browser has six connections for all its tabs, so only those that are seen keep one
  const outer = new EventTarget();
  let inner;
  const open = () => {
    inner = new EventSource(url);
    inner.onmessage = (event) => outer.dispatchEvent(new MessageEvent("message", { data: event.data }));
    inner.onopen = (event) => outer.onopen?.(event);
    inner.onerror = (event) => outer.onerror?.(event);
  };
  const turn = () => document.hidden ? inner.close() : inner.readyState === EventSource.CLOSED && open();
  document.addEventListener("visibilitychange", turn);
  outer.close = () => { document.removeEventListener("visibilitychange", turn); inner.close(); };
  Object.defineProperty(outer, "readyState", { get: () => inner.readyState });
  open();
  return outer;
};

const every = (use) => document.querySelectorAll(".chart").forEach(use);
htmx.onLoad((part) => part.querySelectorAll(".chart").forEach(start));
addEventListener("resize", () => every((box) => box.plot?.setSize({ width: box.clientWidth, height: HEIGHT })));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => every((box) => { box.tag = undefined; draw(box); }));
addEventListener("htmx:sseError", () => document.body.classList.add("is-away"));
addEventListener("htmx:sendError", () => document.body.classList.add("is-away"));
addEventListener("htmx:afterOnLoad", () => document.body.classList.remove("is-away"));
addEventListener("htmx:sseOpen", () => document.body.classList.remove("is-away"));
