"use strict";
// Which classes are answered as which others, what of it changed; the classes as a table and a tree. All lead to the clips.
{
  const into = body("classes");
  const files = data.classes.map((of, f) => ({ of, f })).filter(({ of }) => of);
  const support = (j) => Math.max(0, ...files.map(({ of }) => of.support[j]));

  function values(j) {
    return files.map(({ of }) => of.value[j]);
  }
  function change(j) {
    const known = values(j);
    return known.length > 1 && known[0] !== null && known.at(-1) !== null ? known.at(-1) - known[0] : null;
  }

  function table() {
    const state = { key: "support", down: true };
    const least = make("input", { type: "number", min: 0, value: 1, oninput: refresh });
    const search = make("input", { type: "search", oninput: refresh });
    const rows = make("tbody");
    const columns = [["class", (j) => data.names[j].toLowerCase()], ["support", support],
      ...files.map(({ of, f }) => [data.files[f].label, (j) => of.value[j]])];
    if (files.length > 1) columns.push(["change", change]);
    const labels = { support: "clips", change: `${data.files[files.at(-1).f].label} − ${data.files[files[0].f].label}` };
    const headers = columns.map(([name], n) => make("th", { scope: "col", class: n ? "number" : "" }, make("button", { type: "button", onclick: () => {
      state.down = state.key === n ? !state.down : n > 0;
      state.key = n;
      refresh();
    } }, labels[name] || name)));
    state.key = 1;

    function row(j) {
      const mistaken = files.map(({ of, f }) => of.confused[j] && `${data.files[f].label}: ${data.names[of.confused[j][0]]} (${of.confused[j][1]})`);
      return make("tr", {},
        make("td", {}, make("button", { type: "button", class: "plain", onclick: () => parts.filterByClass(j) }, data.names[j])),
        make("td", { class: "number", "data-name": "clips" }, String(support(j))),
        files.map(({ of, f }) => make("td", { class: "number", "data-name": data.files[f].label }, figure(of.value[j], 3))),
        files.length > 1 ? make("td", { class: `number ${change(j) > 0 ? "good" : change(j) < 0 ? "bad" : ""}`, "data-name": "change" },
          change(j) === null ? "–" : signed(change(j))) : null,
        make("td", { class: "soft", "data-name": "most confused with" }, mistaken.filter(Boolean).join("; ") || "–"));
    }
    function refresh() {
      const key = columns[state.key][1], sign = state.down ? -1 : 1, text = search.value.trim().toLowerCase();
      const shown = data.names.map((_, j) => j)
        .filter((j) => support(j) >= Number(least.value) && data.names[j].toLowerCase().includes(text));
      const sorted = shown.map((j) => [key(j), j]).sort(([a, i], [b, j]) =>
        a === b ? i - j : a === null ? 1 : b === null ? -1 : a < b ? -sign : sign); // no figure: last, either way
      rows.replaceChildren(...sorted.map(([, j]) => row(j)));
      headers.forEach((header, n) => header.setAttribute("aria-sort", state.key === n ? (state.down ? "descending" : "ascending") : "none"));
    }
    refresh();
    const measures = [...new Set(files.map(({ of }) => of.measure))].join(" or ");
    return make("div", {}, make("p", {}, `Shown is ${measures}, with the class that a clip of it was most often mistaken for (how often). A class's `
      + "name leads to its clips. The fewer clips a class has, the more of its change is chance."),
    make("div", { class: "bar" }, labelled("at least this many clips", least), labelled("search", search)),
    make("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Figures by class" },
      make("table", { class: "cards" }, make("thead", {}, make("tr", {}, headers, make("th", { scope: "col" }, "most confused with"))), rows)));
  }

  // Every node: its classes below, so that figures are means over the classes that occur, as map is.
  function outline() {
    const below = data.tree.map(() => []), children = data.tree.map(() => []);
    data.tree.forEach(([, parent, own], n) => {
      if (parent >= 0) children[parent].push(n);
      if (own >= 0) for (let node = n; node >= 0; node = data.tree[node][1]) below[node].push(own);
    });
    const carriers = data.names.map(() => []);
    data.clips.truth.forEach((truth, i) => truth.forEach((j) => carriers[j].push(i)));

    function text(n) {
      const clips = new Set(below[n].flatMap((j) => carriers[j])).size;
      const means = files.map(({ of, f }) => {
        const known = below[n].map((j) => of.value[j]).filter((value) => value !== null);
        return `${data.files[f].label} ${known.length ? (known.reduce((a, b) => a + b) / known.length).toFixed(3) : "–"}`;
      });
      return `${clips} clips; ${means.join(", ")}`;
    }
    function label(n) {
      const own = data.tree[n][2];
      const name = own < 0 ? data.tree[n][0]
        : make("button", { type: "button", class: "plain", onclick: () => parts.filterByClass(own) }, data.tree[n][0]);
      return [name, " ", make("span", { class: "soft" }, text(n))];
    }
    function node(n) {
      if (!children[n].length) return make("div", { class: "leaf" }, label(n));
      const inside = make("div");
      // The button of a class stands beside the summary's own name: a control within a control cannot be reached.
      const own = data.tree[n][2];
      const all = make("details", { ontoggle: () => {
        if (!all.open || inside.childElementCount) return;
        if (own >= 0) inside.append(make("div", { class: "leaf" }, make("button", { type: "button", class: "plain", onclick: () => parts.filterByClass(own) },
          `Clips of ${data.tree[n][0]}`)));
        inside.append(...children[n].map(node));
      } }, make("summary", {}, data.tree[n][0], " ", make("span", { class: "soft" }, text(n))), inside);
      return all;
    }
    const roots = data.tree.map((_, n) => n).filter((n) => data.tree[n][1] < 0);
    return [make("h3", {}, data.tree_name[0].toUpperCase() + data.tree_name.slice(1)),
      make("p", { class: "soft" }, "Each subtree: its clips, and the mean over its classes that occur. A class of several parents stands below the first."),
      ...roots.map(node)];
  }

  // By true class and best class: how many clips more or fewer than in the baseline.
  const MOST = 16;
  function confusions() {
    const holder = make("div");
    const which = choice(data.files.slice(1).map((file, n) => [n + 1, file.label]), show);
    function show() {
      const f = Number(which.value), cells = new Map(), moved = data.names.map(() => 0);
      const add = (own, answer, by) => {
        const key = `${own} ${answer}`, cell = cells.get(key) || { before: 0, after: 0 };
        cell[by]++;
        cells.set(key, cell);
      };
      data.clips.truth.forEach((truth, i) => {
        const [a, b] = [0, f].map((g) => data.clips.best[g][i]?.[0]);
        if (a !== undefined && b !== undefined) truth.forEach((own) => { add(own, a, "before"); add(own, b, "after"); });
      });
      cells.forEach((cell, key) => {
        const change = Math.abs(cell.after - cell.before);
        if (change) new Set(key.split(" ").map(Number)).forEach((j) => { moved[j] += change; });
      });
      const changed = moved.map((n, j) => [n, j]).filter(([n]) => n).sort(([n, i], [m, j]) => m - n || i - j);
      const kept = changed.slice(0, MOST).map(([, j]) => j).sort((i, j) => i - j);
      const value = (own, answer) => {
        const { before, after } = cells.get(`${own} ${answer}`) || { before: 0, after: 0 };
        if (!before && !after) return make("td", { class: "number" });
        const by = after - before, good = by && (by > 0) === (own === answer);
        return make("td", { class: `number ${by ? (good ? "good" : "bad") : "soft"}` }, make("button", { type: "button", class: "cell",
          "aria-label": `${data.names[own]} answered as ${data.names[answer]}: ${before}, then ${after}`,
          onclick: () => parts.filterByConfusion(f, own, answer) }, by ? `${by > 0 ? "+" : "−"}${Math.abs(by)}` : String(after)));
      };
      holder.replaceChildren(make("p", {}, kept.length ? `Of ${data.files[f].label} against ${data.files[0].label}: rows are true classes, columns the best class. `
        + "A signed number is by how many clips a cell changed (green is better: more on the diagonal, fewer beside it), a plain one did not. A cell leads to its clips. "
        + (changed.length > MOST ? `The ${MOST} classes of ${changed.length} that changed most.` : "") : "No class changed."),
      kept.length ? scrolling("Classes answered as others", make("table", { class: "matrix" }, make("thead", {}, make("tr", {}, make("td"),
        kept.map((j) => make("th", { scope: "col" }, make("span", {}, data.names[j]))))),
      make("tbody", {}, kept.map((own) => make("tr", {}, make("th", { scope: "row" }, data.names[own]), kept.map((answer) => value(own, answer))))))) : "");
    }
    show();
    return [make("h3", {}, "What is answered as what"), data.files.length > 2 ? make("div", { class: "bar" }, labelled("file", which)) : "", holder];
  }

  if (data.files.length > 1 && data.clips.id.length && data.clips.best.some((of, f) => f && of.some(Boolean))) into.append(...confusions());
  if (files.length) into.append(table());
  else into.append(make("p", {}, "No file holds predictions of labelled clips, so there are no figures by class."));
  if (files.length && data.tree.length) into.append(...outline());
}
