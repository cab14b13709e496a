"use strict";
// Risk against coverage, and reliability: line charts on a square from 0 to 1.
{
  const into = body("confidence");
  const WIDTH = 420, HIGH = 300, LEFT = 62, LOW = 40;
  const known = data.confidence.map((of, f) => ({ of, f })).filter(({ of }) => of);

  // A square with round ticks: `across` from 0 to 1, `up` from 0 to the tick at or above `most`.
  function chart(title, across, up, most) {
    const marks = ticks(most), top = marks.at(-1);
    const x = (value) => LEFT + value * (WIDTH - LEFT - 20), y = (value) => HIGH - LOW - value / top * (HIGH - LOW - 12);
    const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HIGH}`, width: WIDTH, role: "img", "aria-label": title });
    for (const mark of marks) {
      const side = draw("text", { x: LEFT - 6, y: y(mark) + 4, "text-anchor": "end" });
      side.textContent = String(mark);
      picture.append(draw("line", { x1: x(0), x2: x(1), y1: y(mark), y2: y(mark), class: "rule" }), side);
    }
    for (const mark of ticks(1)) {
      const below = draw("text", { x: x(mark), y: HIGH - LOW + 16, "text-anchor": "middle" });
      below.textContent = String(mark);
      picture.append(below);
    }
    const name = draw("text", { x: x(0.5), y: HIGH - 6, "text-anchor": "middle" }), beside = draw("text", { x: 12, y: y(top / 2), "text-anchor": "middle", transform: `rotate(-90 12 ${y(top / 2)})` });
    name.textContent = across;
    beside.textContent = up;
    picture.append(name, beside);
    return { picture, x, y };
  }
  const stroke = (f) => `var(--f${f % 6})`, dash = (f) => ["", "7 3", "2 3", "9 3 2 3"][f % 4];
  function path(chart, points, f) {
    const line = draw("polyline", { points: points.map(([a, b]) => `${chart.x(a)},${chart.y(b)}`).join(" "), fill: "none", "stroke-width": 2, "stroke-dasharray": dash(f) });
    line.style.stroke = stroke(f);
    chart.picture.append(line);
  }
  function key(entries) {
    return make("ul", { class: "key" }, entries.map(([f, text]) => {
      const sample = draw("svg", { width: 34, height: 10, "aria-hidden": "true" });
      const line = draw("line", { x1: 0, x2: 34, y1: 5, y2: 5, "stroke-width": 2, "stroke-dasharray": dash(f) });
      line.style.stroke = stroke(f);
      sample.append(line);
      sample.style.display = "inline-block";
      return make("li", {}, sample, ` ${text}`);
    }));
  }

  function risk() {
    const top = Math.max(0.05, ...known.flatMap(({ of }) => of.risk.risk));
    const square = chart("Risk against coverage", "coverage: share of clips, most similar first", "risk: share of wrong top-1", top);
    known.forEach(({ of, f }) => path(square, of.risk.coverage.map((at, i) => [at, of.risk.risk[i]]), f));
    return make("div", {}, make("h3", {}, "Risk against coverage"),
      make("p", {}, "If only the clips with the most similar best class were answered, how many of the answers would be wrong. Lower is better."),
      square.picture, key(known.map(({ of, f }) => [f, `${data.files[f].label}: mean risk ${of.risk.area.toFixed(3)}`])));
  }
  function reliability() {
    const able = known.filter(({ of }) => of.reliability);
    if (!able.length) return make("div", {}, make("h3", {}, "Reliability"), make("p", {}, "None of the files has a trained projector whose probabilities could be had."));
    const square = chart("Reliability", "probability of the best class", "share right", 1);
    square.picture.append(draw("line", { x1: square.x(0), y1: square.y(0), x2: square.x(1), y2: square.y(1), class: "axis", "stroke-dasharray": "3 4" }));
    for (const { of, f } of able) {
      path(square, of.reliability.bins.map((bin) => [bin.probability, bin.true]), f);
      for (const bin of of.reliability.bins) {
        const bar = draw("line", { x1: square.x(bin.probability), x2: square.x(bin.probability), y1: square.y(bin.low), y2: square.y(bin.high), "stroke-width": 1.2 });
        const spot = draw("circle", { cx: square.x(bin.probability), cy: square.y(bin.true), r: 3 });
        bar.style.stroke = spot.style.fill = stroke(f);
        square.picture.append(bar, spot);
      }
    }
    return make("div", {}, make("h3", {}, "Reliability"),
      make("p", {}, "How often the best class is true where the model says so with some probability; on the dotted line it means what it says. 15 bins of "
        + "equal width, with 95 % intervals."), square.picture,
      key(able.map(({ of, f }) => [f, `${data.files[f].label}: calibration error ${of.reliability.error.toFixed(3)} (${of.reliability.meaning})`])));
  }

  if (known.length) into.append(make("div", { class: "grid" }, risk(), reliability()));
  else into.append(make("p", {}, "No file holds its similarities (--save-scores), so there is no confidence to draw."));
}
