"use strict";
// What was run, and the table of metrics with every difference as an interval around 0.
{
  const WIDTH = 150, LESS = ["mean_rank", "wrong_top1_distance"];
  const into = body("verdict");

  function run(file) {
    const skipped = Object.entries(file.skipped).map(([reason, entry]) => `${entry.count} ${reason}`);
    const files = Object.entries(file.skipped_files).map(([reason, entry]) => `${entry.count} files ${reason}`);
    const facts = [
      ["file", file.path], ["command", file.command && make("code", {}, file.command)], ["when", file.time],
      ["model", file.clap_model], ["projection", file.projection_checkpoint],
      ["similarity", file.similarity && file.similarity + (file.c ? `, c = ${file.c} (squared radius of the ball)` : "")],
      ["dimensions", file.output_dim], ["epoch", file.epoch], ["trained with", file.training], ["prompt", file.prompt],
      ["clips", `${file.clips}, ${file.valid} with a true class, ${file.classes} classes`],
      ["skipped rows", [...skipped, ...files].join("; ") || "none told"], ["device", file.device],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    return make("div", {}, make("h3", {}, file.label),
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
    const better = clear ? (entry.difference > 0) !== LESS.includes(row.metric) : null;
    return make("td", { class: "interval", "data-name": name },
      interval({ ...entry, better }, reach(rows, row)), make("span", { class: clear ? "" : "soft" }, text + (clear ? " *" : "")));
  }

  function table(content) {
    const [base, ...others] = content.files;
    const rows = content.rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, row.metric + (LESS.includes(row.metric) ? " (less is better)" : "")),
      row.values.map((cell, f) => make("td", { class: "number", "data-name": content.files[f] },
        cell ? figure(cell.value) + (cell.source === "recomputed" ? " r" : "") : "–")),
      row.differences.map((entry, f) => difference(content.rows, row, entry, `${others[f]} − ${base}`))));
    const head = ["metric", ...content.files, ...others.map((other) => `${other} − ${base}`)];
    return scrolling(content.title, make("table", { class: "cards quiet" }, make("caption", {}, content.title),
      make("thead", {}, make("tr", {}, head.map((name, i) =>
        make("th", { scope: "col", class: i > 0 && i <= content.files.length ? "number" : "" }, name)))),
      make("tbody", {}, rows)));
  }

  const { tables, resamples, seed, k, notes } = data.comparison;
  into.append(
    make("p", {}, `Differences are to ${data.files[0].label}, with their 95 % interval from a paired bootstrap over the clips `
      + `(${resamples} resamples, seed ${seed}). Coloured and marked * where the interval excludes 0; r: recomputed from the `
      + `predictions. Precision, recall, f1 and mrr are at k = ${k}.`),
    ...tables.map(table));
  const told = [...notes, ...data.notes];
  if (told.length) into.append(make("h3", {}, "Notes"), make("ul", { class: "notes" }, told.map((note) => make("li", {}, note))));
  into.append(make("h3", {}, "What was run"), make("div", { class: "grid" }, data.files.map(run)));
}
