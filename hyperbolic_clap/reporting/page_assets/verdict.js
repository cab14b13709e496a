"use strict";
// What was run, and the table of metrics with every difference as an interval around 0.
{
  const WIDTH = 150, less = (metric) => data.less.includes(metric.split(" ").at(-1));
  const into = body("verdict");

  // The losses by epoch of the training beside the checkpoint, of all files on one scale.
  const highest = Math.max(...data.files.flatMap(({ curves }) => (curves ? [...curves.train_loss, ...curves.val_loss] : [])));
  parts.curves = ({ curves, label }) => {
    if (!curves) return null;
    const { epoch, train_loss, val_loss, best } = curves, WIDE = 420, HIGH = 170, LEFT = 56, LOW = 36;
    const marks = ticks(highest), top = marks.at(-1), last = Math.max(...epoch), first = Math.min(...epoch);
    const x = (value) => LEFT + (last === first ? 0.5 : (value - first) / (last - first)) * (WIDE - LEFT - 16), y = (value) => HIGH - LOW - value / top * (HIGH - LOW - 10);
    const picture = draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, width: WIDE, role: "img",
      "aria-label": `Losses of ${label} by epoch, training and validation; the best is epoch ${best}` });
    const write = (text, at, anchor) => { const node = draw("text", { ...at, "text-anchor": anchor }); node.textContent = text; picture.append(node); };
    for (const mark of marks) {
      picture.append(draw("line", { x1: LEFT, x2: WIDE - 16, y1: y(mark), y2: y(mark), class: "rule" }));
      write(String(mark), { x: LEFT - 6, y: y(mark) + 4 }, "end");
    }
    for (const at of ticks(last).filter((n) => Number.isInteger(n) && n >= first && n <= last)) write(String(at), { x: x(at), y: HIGH - LOW + 16 }, "middle");
    [[train_loss, "2", "training"], [val_loss, "1", "validation"]].forEach(([values, f, word]) => {
      const line = draw("polyline", { points: epoch.map((at, i) => `${x(at)},${y(values[i])}`).join(" "), fill: "none", "stroke-width": 2, "stroke-dasharray": f === "2" ? "5 3" : "" });
      line.style.stroke = `var(--f${f})`;
      picture.append(line);
      if (word === "validation" && epoch.includes(best)) {
        const spot = draw("circle", { cx: x(best), cy: y(values[epoch.indexOf(best)]), r: 4 });
        spot.style.fill = `var(--f${f})`;
        picture.append(spot);
      }
    });
    write("epoch; dashed: training loss, line: validation, dot: the best", { x: (LEFT + WIDE) / 2, y: HIGH - 4 }, "middle");
    return picture;
  };

  function run(file) {
    const skipped = Object.entries(file.skipped).map(([reason, entry]) => `${entry.count} ${reason}`);
    const files = Object.entries(file.skipped_files).map(([reason, entry]) => `${entry.count} files ${reason}`);
    const facts = [
      ["file", file.path], ["command", file.command && make("code", {}, file.command.split(" ").flatMap((word) => [make("span", { class: "word" }, word), " "]))], ["when", file.time],
      ["model", file.clap_model], ["projection", file.projection_checkpoint],
      ["similarity", file.similarity && file.similarity + (file.c ? `, c = ${file.c} (squared radius of the ball)` : "")],
      ["dimensions", file.output_dim], ["epoch", file.epoch], ["trained with", file.training], ["prompt", file.prompt],
      ["clips", data.queries ? file.clips : `${file.clips}, ${file.valid} with a true class, ${file.classes} classes`],
      ["skipped rows", [...skipped, ...files].join("; ") || "none told"], ["device", file.device],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    return make("div", {}, make("h3", {}, file.label), parts.curves(file),
      make("dl", {}, facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value instanceof Node ? value : String(value))])));
  }

  function interval(entry, reach) {
    const x = (value) => WIDTH / 2 + value / reach * (WIDTH / 2 - 6);
    const better = entry.better === null ? "soft" : entry.better ? "good" : "bad";
    const picture = draw("svg", { width: WIDTH, height: 16, viewBox: `0 0 ${WIDTH} 16`, "aria-hidden": "true", class: better });
    picture.append(draw("line", { x1: WIDTH / 2, x2: WIDTH / 2, y1: 0, y2: 16, class: "axis" }));
    if (entry.low !== undefined) {
      picture.append(draw("line", { x1: x(entry.low), x2: x(entry.high), y1: 8, y2: 8, stroke: "currentColor", "stroke-width": 2.5 }));
    }
    picture.append(draw("circle", { cx: x(entry.difference), cy: 8, r: 4, fill: "currentColor" }));
    return picture;
  }

  // Metrics between 0 and 1 share one scale; each other has its own.
  function reach(rows, row) {
    const bounded = (r) => r.values.every((cell) => !cell || (cell.value >= 0 && cell.value <= 1));
    const group = bounded(row) ? rows.filter(bounded) : [row];
    const ends = group.flatMap((r) => r.differences).filter((d) => d && d.difference !== null)
      .flatMap((d) => [d.difference, d.low ?? 0, d.high ?? 0]);
    return Math.max(1e-12, ...ends.map(Math.abs));
  }

  function difference(rows, row, entry, name) {
    if (!entry) return make("td");
    if (entry.difference === null) return make("td", { class: "soft", "data-name": name }, `(${entry.note})`);
    const known = entry.low !== undefined;
    const clear = known && (entry.low > 0 || entry.high < 0);
    const text = signed(entry.difference) + (known ? ` [${signed(entry.low)}, ${signed(entry.high)}]` : ` (${entry.note})`);
    const better = clear ? (entry.difference > 0) !== less(row.metric) : null;
    return make("td", { class: "interval", "data-name": name },
      interval({ ...entry, better }, reach(rows, row)), make("span", { class: clear ? "" : "soft" }, text + (clear ? " *" : "")));
  }

  function table(content) {
    const [base, ...others] = content.files;
    const rows = content.rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, row.metric + (less(row.metric) ? " (less is better)" : "")),
      row.values.map((cell, f) => make("td", { class: "number", "data-name": content.files[f] },
        cell ? figure(cell.value) + (cell.source === "recomputed" ? " r" : "") : "–")),
      row.differences.map((entry, f) => difference(content.rows, row, entry, `${others[f]} − ${base}`))));
    const columns = ["metric", ...content.files, ...others.map((other) => `${other} − ${base}`)];
    return scrolling(content.title, make("table", { class: "cards quiet", "aria-label": content.title },
      make("thead", {}, make("tr", {}, columns.map((name, i) =>
        make("th", { scope: "col", class: i > 0 && i <= content.files.length ? "number" : "" }, name)))),
      make("tbody", {}, rows)));
  }

  // How many clips became right and wrong, each leading to them.
  function changes() {
    if (data.queries) return null; // told by queries.js
    const told = data.files.slice(1).map((file, n) => {
      const f = n + 1, of = (before, after) => data.clips.id.filter((_, i) => right(0, i) === before && right(f, i) === after).length;
      const link = (kind, count, word) => make("button", { type: "button", class: "plain", onclick: () => parts.filterByOutcome(`${kind} ${f}`) },
        `${count} clip${count === 1 ? "" : "s"} became ${word}`);
      return make("li", {}, `${file.label} against ${data.files[0].label}: `, link("gained", of(false, true), "right"), " and ",
        link("lost", of(true, false), "wrong"), `; ${of(true, true)} stayed right, ${of(false, false)} wrong.`);
    });
    return data.clips.id.length && data.clips.best?.every((of) => of.some(Boolean)) ? make("ul", { class: "notes", id: "became" }, told) : null;
  }
  // Folded where a table of this length would fill twenty screens.
  function folding(title, ...content) {
    return make("details", { class: "fold", open: !matchMedia("(max-width: 640px)").matches }, make("summary", {}, title), ...content);
  }

  const { tables, resamples, seed, k, notes } = data.comparison, became = changes();
  if (became) into.append(became);
  into.append(
    make("p", {}, `Differences are to ${data.files[0].label}, with their 95 % interval from a paired bootstrap over the clips `
      + `(${resamples} resamples, seed ${seed}). Coloured and marked * where the interval excludes 0; r: recomputed from the `
      + "predictions." + (k ? ` Precision, recall, f1 and mrr are at k = ${k}.` : "")),
    ...tables.map((content) => folding(content.title, table(content))));
  const told = [...notes, ...data.notes];
  if (told.length) into.append(folding("Notes", make("ul", { class: "notes" }, told.map((note) => make("li", {}, note)))));
  into.append(folding("What was run", make("div", { class: "grid" }, data.files.map(run))));
}
