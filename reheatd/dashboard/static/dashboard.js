// Draws every .chart from the JSON of its data-src (see charts.py), and says when the daemon is away.
"use strict";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
const LEVELS = { baseline: "--muted", collapsed: "--bad", warning: "--warn", too_hot: "--hot", target: "--good" };
const MARKS = { promoted: "--good", collapsed: "--bad", job: "--line-1", request: "--warn", other: "--muted" };

function behind(chart) {  // levels, spans and marks, which uPlot does not know
  return (u) => {
    const { ctx, bbox } = u, ratio = devicePixelRatio;
    const at = (x) => u.valToPos(x, "x", true);
    ctx.save();
    ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
    ctx.font = `${11 * ratio}px system-ui`;
    chart.spans.forEach((span, index) => {
      ctx.fillStyle = css(index % 2 ? "--span-odd" : "--span-even");
      ctx.fillRect(at(span.start), bbox.top, at(span.end) - at(span.start), bbox.height);
      ctx.fillStyle = css("--muted");
      if (at(span.end) - at(span.start) > 60 * ratio) ctx.fillText(span.label, at(span.start) + 4 * ratio, bbox.top + 12 * ratio);
    });
    const line = (colour, from, to, dash) => {
      ctx.strokeStyle = css(colour); ctx.lineWidth = ratio; ctx.setLineDash(dash);
      ctx.beginPath(); ctx.moveTo(...from); ctx.lineTo(...to); ctx.stroke();
    };
    for (const level of chart.levels) {
      const y = u.valToPos(level.value, "y", true);
      line(LEVELS[level.kind], [bbox.left, y], [bbox.left + bbox.width, y], [6 * ratio, 4 * ratio]);
      ctx.fillStyle = css(LEVELS[level.kind]); ctx.textAlign = "right";
      ctx.fillText(level.label, bbox.left + bbox.width - 4 * ratio, y - 4 * ratio);
    }
    for (const mark of chart.marks) line(MARKS[mark.kind], [at(mark.x), bbox.top], [at(mark.x), bbox.top + bbox.height], [2 * ratio, 3 * ratio]);
    ctx.restore();
  };
}

function options(chart, width, zoomed) {
  const axis = { stroke: css("--text"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--grid") } };
  const series = [{ label: chart.is_time ? "time" : "step" }], bands = [], data = [chart.x];
  chart.lines.forEach((line, index) => {
    const colour = css(COLOURS[index % COLOURS.length]);
    data.push(line.values);
    series.push({ label: line.label, stroke: colour, width: 2, spanGaps: true, points: { show: chart.x.length < 60 }, value: (_, v) => v?.toPrecision(3) ?? "–" });
    if (line.low) {
      data.push(line.high, line.low);
      for (const edge of ["high", "low"]) series.push({ label: `${line.label}, ${edge}`, stroke: "transparent", spanGaps: true, points: { show: false }, value: (_, v) => v?.toPrecision(3) ?? "–" });
      bands.push({ series: [series.length - 2, series.length - 1], fill: colour + "33" });
    }
  });
  const least = Math.min(Infinity, ...chart.levels.map((l) => l.value)), most = Math.max(-Infinity, ...chart.levels.map((l) => l.value));
  const range = (_, low, high) => low == null ? [0, 1] : uPlot.rangeNum(Math.min(low, least), Math.max(high, most), 0.08, true);
  return [{
    width, height: 300, series, bands, axes: [axis, { ...axis, label: chart.unit, size: 64 }], cursor: { drag: { x: true, y: false } },
    scales: { x: { time: chart.is_time }, y: { range } }, hooks: { drawAxes: [behind(chart)], setScale: [(u, key) => key === "x" && zoomed(u)] },
  }, data];
}

async function draw(box) {
  const url = new URL(box.dataset.src, location.href);
  for (const [key, value] of Object.entries(box.zoom ?? {})) url.searchParams.set(key, value);
  const answer = await fetch(url);
  if (!answer.ok) { box.textContent = `The curve cannot be shown: ${(await answer.json()).error.message}`; return; }
  const chart = await answer.json();
  if (!chart.x.length) { box.textContent = "There is nothing to show yet."; return; }
  let ready = false;
  const zoomed = (u) => {  // asks for the stretch alone, which has more detail
    const { min, max } = u.scales.x, whole = min <= chart.x[0] && max >= chart.x.at(-1);
    if (!ready || (whole && !box.zoom) || (box.zoom?.start === min && box.zoom?.end === max)) return;
    box.zoom = whole ? undefined : { start: min, end: max };
    clearTimeout(box.pending); box.pending = setTimeout(draw, 150, box);
  };
  const hidden = box.plot?.series.map((series) => !series.show) ?? [];
  box.plot?.destroy(); box.textContent = "";
  box.plot = new uPlot(...options(chart, box.clientWidth, zoomed), box);
  hidden.forEach((is, index) => is && box.plot.series[index] && box.plot.setSeries(index, { show: false }));
  setTimeout(() => { ready = true; });
}

const every = (use) => document.querySelectorAll(".chart").forEach(use);
addEventListener("DOMContentLoaded", () => every((box) => {
  draw(box);
  if (box.dataset.live) setInterval(() => document.hidden || box.zoom || draw(box), 1000 * box.dataset.live);
  box.addEventListener("dblclick", () => { box.zoom = undefined; draw(box); });
}));
addEventListener("resize", () => every((box) => box.plot?.setSize({ width: box.clientWidth, height: 300 })));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => every(draw));
addEventListener("htmx:sseError", () => document.body.classList.add("is-away"));
addEventListener("htmx:sendError", () => document.body.classList.add("is-away"));
addEventListener("htmx:afterOnLoad", () => document.body.classList.remove("is-away"));
addEventListener("htmx:sseOpen", () => document.body.classList.remove("is-away"));
