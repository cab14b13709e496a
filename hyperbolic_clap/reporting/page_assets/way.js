"use strict";
// The texts that a clip or class meets on its traversal to the root, and how many of its ancestors are among them.
{
  const into = body("way");
  const traversals = data.traversals.map((traversal, f) => ({ traversal, f })).filter(({ traversal }) => traversal);
  const result = make("div", { "aria-live": "polite" });
  const clip = make("input", { type: "search", onchange: () => seekClip(), onkeydown: (event) => event.key === "Enter" && seekClip() });
  const name = make("input", { type: "search", list: "class-names", onchange: () => seekClass(), onkeydown: (event) => event.key === "Enter" && seekClass() });

  function ancestorsOf(classes) {
    return new Set(classes.flatMap((j) => data.ancestors[j]));
  }
  function chain(met, own, above) {
    return make("ol", { class: "chain" }, met.map((j) => make("li", { class: above.has(j) ? "above" : own.includes(j) ? "own" : "" },
      (above.has(j) ? "↑ " : "") + data.names[j])));
  }
  function show(title, own, metOf, play) {
    const above = ancestorsOf(own);
    result.replaceChildren(make("h3", {}, title), play || "",
      make("p", {}, `Ancestors to be met: ${[...above].map((j) => data.names[j]).join("; ") || "none in the class list"}.`));
    for (const { traversal, f } of traversals) {
      const met = metOf(traversal);
      result.append(make("h4", {}, `${data.files[f].label}: ${traversal.kind}`), met ? chain(met, own, above) : make("p", { class: "soft" }, "not in this file"));
    }
  }
  function showClip(i) {
    show(`Clip ${data.clips.id[i]}: ${parts.truth(i)}`, data.clips.truth[i], (traversal) => traversal.clips_met[i], parts.playButton(i));
  }
  function showClass(j) {
    show(data.names[j], [j], (traversal) => traversal.classes_met[j]);
  }
  function seekClip() {
    const text = clip.value.trim().toLowerCase();
    const i = data.clips.id.findIndex((id) => id.toLowerCase() === text);
    const found = i >= 0 ? i : data.clips.id.findIndex((id) => text && id.toLowerCase().includes(text));
    if (found >= 0) showClip(found);
    else result.replaceChildren(make("p", {}, `No clip is called ${clip.value}.`));
  }
  function seekClass() {
    const j = findClass(name.value);
    if (j >= 0) showClass(j);
    else result.replaceChildren(make("p", {}, `No class is called ${name.value}.`));
  }
  parts.showWay = (kind, n) => {
    document.getElementById("way").scrollIntoView();
    if (traversals.length) (kind === "clip" ? showClip : showClass)(n);
  };

  // Shares with their intervals, and where chance would be, on one scale from 0 to 1.
  function shares() {
    const known = traversals.filter(({ traversal }) => traversal.share !== null && traversal.share !== undefined);
    if (!known.length) return make("p", {}, `No share of ancestors: ${traversals[0].traversal.reason}.`);
    const rows = known.map(({ traversal, f }) => {
      const width = 260, x = (value) => 4 + value * (width - 8);
      const picture = draw("svg", { width, height: 18, viewBox: `0 0 ${width} 18`, "aria-hidden": "true" });
      picture.append(draw("line", { x1: x(0), x2: x(1), y1: 9, y2: 9, class: "rule" }));
      if (traversal.low !== null) picture.append(draw("line", { x1: x(traversal.low), x2: x(traversal.high), y1: 9, y2: 9, stroke: "currentColor", "stroke-width": 1.5 }));
      picture.append(draw("circle", { cx: x(traversal.share), cy: 9, r: 3, fill: "currentColor" }),
        draw("line", { x1: x(traversal.shuffled), x2: x(traversal.shuffled), y1: 2, y2: 16, class: "axis" }));
      return make("tr", {}, make("th", { scope: "row" }, data.files[f].label), make("td", { "data-name": "traversal" }, traversal.kind),
        make("td", { class: "number", "data-name": "share" }, `${traversal.share.toFixed(3)} ` + (traversal.low === null ? "" : `[${traversal.low.toFixed(3)}, ${traversal.high.toFixed(3)}]`)),
        make("td", { class: "number", "data-name": "another clip's ancestors" }, traversal.shuffled.toFixed(3)), make("td", { class: "number", "data-name": "clips" }, String(traversal.clips)), make("td", {}, picture));
    });
    return scrolling("Ancestors met in order", make("table", { class: "cards quiet" }, make("thead", {}, make("tr", {},
      ["file", "traversal", "ancestors met in order", "another clip's", "clips", "0 to 1"].map((text, n) => make("th", { scope: "col", class: n > 1 && n < 5 ? "number" : "" }, text)))),
    make("tbody", {}, rows)));
  }

  if (!climbs) { // nothing lies above a class
    document.getElementById("way").remove();
    document.querySelector('nav a[href="#way"]').remove();
  } else if (traversals.length) {
    into.append(make("p", {}, "A clip moves towards what is most general: to the origin along the geodesic in a hyperbolic space, to the mean text in cosine. "
      + `At each step the most similar class text is met. If the space held ${data.tree_name}, the clip would meet its ancestors (↑), the nearest first. `
      + "Dashed: its own classes. The thin stroke is the share with another clip's classes, what chance gives."), shares(),
    make("div", { class: "bar" }, data.clips.id.length ? labelled("clip", clip) : null, labelled("class", name)), result);
    if (data.clips.id.length) showClip(Math.max(0, data.clips.truth.findIndex((truth) => ancestorsOf(truth).size > 1)));
  } else into.append(make("p", {}, "The vectors of these files could not be had, so no traversal can be shown (the notes of the verdict say why)."));
}
