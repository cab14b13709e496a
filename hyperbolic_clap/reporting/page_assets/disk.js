"use strict";
// The Poincare disk that one can move about in.
{
  const into = body("disk");
  const tree = data.tree_disk;
  const disks = data.disks.map((disk, f) => ({ disk, f, clips: data.tree_clips[f] })).filter(({ disk, clips }) => disk || (tree && clips));
  const EDGE = 0.999999; // the farthest a drag reaches: the boundary itself is infinitely far

  if (!disks.length) {
    into.append(make("p", {}, "None of these files has a hyperbolic projector whose vectors could be had, and the classes lie in no tree, so there is no disk."));
  } else start();

  function start() {
    const first = disks.find(({ disk }) => disk) || disks[0];
    const state = { ...first, view: plane.rest, zoom: 1, selected: null, hovered: null, drag: null };
    const canvas = make("canvas", { tabindex: "0", role: "application", "aria-roledescription": "Poincare disk", "aria-describedby": "disk-help",
      "aria-label": "Class texts and clips in the Poincare disk" });
    const context = canvas.getContext("2d");
    const told = make("p", { "aria-live": "polite" });
    const texts = make("input", { type: "checkbox", checked: true, onchange: paint });
    const clips = make("input", { type: "checkbox", checked: true, onchange: paint });
    const names = make("input", { type: "checkbox", checked: true, onchange: paint });
    const search = make("input", { type: "search", list: "class-names", onchange: () => seek(), onkeydown: (event) => event.key === "Enter" && seek() });
    const which = choice(disks.map(({ f }) => [f, data.files[f].label]), () => {
      Object.assign(state, disks.find(({ f }) => f === Number(which.value)), { view: plane.rest, selected: null });
      describe();
      paint();
    });
    const figures = make("p", { class: "soft" });
    const layout = choice([["model", "the model's distances"], ["tree", data.tree_name || ""]], () => {
      Object.assign(state, { view: plane.rest, selected: null });
      told.replaceChildren();
      describe();
      paint();
    });
    const byTree = () => layout.value === "tree" || !state.disk;
    let points = [], at = []; // at: where each class is

    function collect() {
      points = [];
      at = data.names.map(() => null);
      if (byTree()) {
        const above = (n) => tree.nodes[n][2], depthOf = (n) => (above(n) < 0 ? 0 : 1 + depthOf(above(n)));
        const top = (n) => (depthOf(n) < 2 ? n : top(above(n)));
        tree.nodes.forEach(([name, j, parent, x, y], n) => {
          const group = tree.nodes[top(n)][0];
          if (j >= 0) at[j] = [x, y];
          points.push({ kind: "text", j, z: [x, y], parent, name, group: j >= 0 ? data.group_of[j] : groupNames.includes(group) ? group : "" });
        });
        (state.clips || []).forEach(([i, x, y]) => points.push({ kind: "clip", j: i, z: [x, y], outcome: right(state.f, i),
          name: `clip ${data.clips.id[i]}: ${parts.truth(i)}; best: ${data.names[data.clips.best[state.f][i][0]]}`, group: "" }));
        return;
      }
      at = state.disk.texts;
      state.disk.texts.forEach((z, j) => z && points.push({ kind: "text", j, z, group: data.group_of[j], name: data.names[j] }));
      state.disk.clips.forEach(([i, x, y]) => points.push({ kind: "clip", j: i, z: [x, y], name: `clip ${data.clips.id[i]}: ${parts.truth(i)}`,
        group: most(data.clips.truth[i].map((j) => data.group_of[j])) }));
    }
    function most(list) {
      return list.sort((a, b) => list.filter((x) => x === b).length - list.filter((x) => x === a).length)[0] || "";
    }
    // The whole disk at zoom 1; it starts so that the points fill the picture.
    function fill() {
      const far = Math.max(...points.map(({ z }) => plane.size(z)));
      state.zoom = Math.max(1, Math.min(40, 0.94 / far));
    }
    function describe() {
      collect();
      fill();
      for (const option of layout.options) option.disabled = option.value === "model" ? !state.disk : !(tree && state.clips);
      if (layout.selectedOptions[0]?.disabled) layout.value = byTree() ? "tree" : "model";
      outcomes.forEach((outcome) => { outcome.hidden = !byTree(); });
      if (byTree()) {
        figures.textContent = `The nodes of ${data.tree_name} where their hyperbolic distances come nearest to the path lengths, whatever any model says: they are off by `
          + `${(100 * tree.error).toFixed(1)} % on average, the same fit in the flat plane by ${(100 * tree.flat_error).toFixed(1)} %. A node of several parents hangs below the first. A clip lies at the hyperbolic mean of its five best classes`
          + ", weighted by their probabilities where there are any.";
        return;
      }
      const { stress, flat_stress, rank, exact, dimensions, c } = state.disk;
      figures.textContent = `c = ${c} (squared radius of the ball). ` + (exact ? "The model's own two dimensions."
        : `The ${dimensions} dimensions became two by a fit to the model's own hyperbolic distances: stress ${stress.toFixed(3)} (0 would be exact; `
        + `the same fit in the flat plane: ${flat_stress.toFixed(3)}). Neighbours are alike only as far as that. `
        + (rank === null ? "" : `Rank correlation of the shown with the true distance from the origin: ${rank.toFixed(2)}.`));
    }

    const place = (z) => plane.apply(state.view, z);
    const scale = () => canvas.width / 2 * 0.99 * state.zoom;
    const screen = ([x, y]) => [canvas.width / 2 + x * scale(), canvas.height / 2 - y * scale()];
    function under(event) {
      const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
      const z = [((event.clientX - box.left) * ratio - canvas.width / 2) / scale(), (canvas.height / 2 - (event.clientY - box.top) * ratio) / scale()];
      const far = plane.size(z);
      return far < EDGE ? z : [z[0] / far * EDGE, z[1] / far * EDGE];
    }
    const visible = ({ kind }) => (kind === "text" ? texts : clips).checked;
    function near(z, reach) {
      let found = null, least = reach / scale();
      for (const point of points) {
        if (!visible(point)) continue;
        const [x, y] = place(point.z), far = Math.hypot(x - z[0], y - z[1]);
        if (far < least) [found, least] = [point, far];
      }
      return found;
    }

    function line(path) {
      context.beginPath();
      path.map(screen).forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
    }
    function dot(point, unit, shades) {
      const z = place(point.z), [x, y] = screen(z);
      const small = point.kind === "text" && point.j < 0; // of the tree, but no class
      const size = unit * (small ? 0.6 : 1) * (0.55 + 0.45 * (1 - plane.size(z) ** 2)); // farther from the centre is smaller
      context.fillStyle = context.strokeStyle = point.outcome === true ? shades["--good"] : point.outcome === false ? shades["--bad"] : shades[point.group];
      context.beginPath();
      if (point.kind === "text") {
        context.arc(x, y, 4 * size, 0, 7);
        context.fill();
      } else if (point.outcome) {
        context.arc(x, y, 3.2 * size, 0, 7);
        context.stroke();
      } else {
        const arm = 3 * size;
        context.moveTo(x - arm, y - arm); context.lineTo(x + arm, y + arm);
        context.moveTo(x - arm, y + arm); context.lineTo(x + arm, y - arm);
        context.stroke();
      }
    }
    function ring(point, unit) {
      const [x, y] = screen(place(point.z));
      context.beginPath();
      context.arc(x, y, 9 * unit, 0, 7);
      context.stroke();
    }
    function write(text, z, unit, boxes) {
      const [x, y] = screen(z), width = context.measureText(text).width, high = 15 * unit;
      const sides = [x + 7 * unit, x - width - 7 * unit]; // beside the point, right or left, where there is room
      const boxAt = (left) => [left, left + width, y - high / 2, y + high / 2];
      const free = (box) => box[0] >= 0 && box[1] <= canvas.width && box[2] >= 0 && box[3] <= canvas.height
        && !boxes?.some((b) => box[0] < b[1] && b[0] < box[1] && box[2] < b[3] && b[2] < box[3]);
      const left = sides.find((side) => free(boxAt(side))) ?? (boxes ? null : sides[x > canvas.width / 2 ? 1 : 0]);
      if (left === null) return;
      boxes?.push(boxAt(left));
      context.strokeText(text, left, y);
      context.fillText(text, left, y);
    }

    const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
    // Whose names are written first: of the tree what is nearest to the centre, where there is room, else by clips.
    function byImportance() {
      if (!byTree()) return points.filter((p) => p.kind === "text").sort((p, q) => counts[q.j] - counts[p.j]);
      return points.filter((p) => p.kind === "text" && p.parent >= 0).map((p) => [plane.size(place(p.z)), p]).sort(([a], [b]) => a - b).map(([, p]) => p);
    }
    const counts = data.names.map(() => 0);
    data.clips.truth.forEach((truth) => truth.forEach((j) => counts[j]++));

    function paint() {
      const unit = window.devicePixelRatio || 1, width = Math.round(canvas.clientWidth * unit);
      if (!width) return;
      if (canvas.width !== width || canvas.height !== width) canvas.width = canvas.height = width;
      const shades = Object.fromEntries(["--text", "--soft", "--line", "--ground", "--good", "--bad"].map((v) => [v, colour(v)]));
      for (const group of ["", ...groupNames]) shades[group] = groupColour(group);
      context.clearRect(0, 0, width, width);
      context.strokeStyle = shades["--soft"];
      context.lineWidth = unit;
      context.beginPath();
      context.arc(width / 2, width / 2, scale(), 0, 7);
      context.stroke();
      const drawn = points.filter(visible);
      context.lineWidth = unit;
      context.strokeStyle = shades["--line"];
      if (byTree() && texts.checked) for (const p of points) if (p.parent >= 0) line(plane.geodesic(place(p.z), place(points[p.parent].z), 8));
      context.lineWidth = 1.2 * unit;
      drawn.filter((p) => p.kind === "clip").forEach((p) => dot(p, unit, shades));
      drawn.filter((p) => p.kind === "text").forEach((p) => dot(p, unit, shades));
      const origin = screen(place([0, 0]));
      context.fillStyle = context.strokeStyle = shades["--text"];
      context.lineWidth = 1.5 * unit;
      context.strokeRect(origin[0] - 4 * unit, origin[1] - 4 * unit, 8 * unit, 8 * unit); // the model's origin
      if (state.selected) edges(state.selected, unit, shades);
      context.font = `${13 * unit}px system-ui, sans-serif`;
      context.textBaseline = "middle";
      context.lineJoin = "round";
      context.fillStyle = shades["--text"];
      context.strokeStyle = shades["--ground"];
      context.lineWidth = 3.5 * unit;
      const boxes = [];
      const first = [state.hovered, state.selected].filter(Boolean);
      first.forEach((p) => write(short(p.name, 60), place(p.z), unit, null));
      if (names.checked && texts.checked) {
        for (const point of byImportance()) {
          if (boxes.length >= canvas.clientWidth / 18) break;
          if (!first.includes(point) && plane.size(place(point.z)) < 1 - 0.012 / state.zoom ** 2) write(short(point.name, 26), place(point.z), unit, boxes);
        }
      }
      context.strokeStyle = shades["--text"];
      context.lineWidth = 2 * unit;
      first.forEach((p) => ring(p, unit));
    }

    // The tree about what is selected: a class and its parents and children, a clip and its true classes.
    function edges(point, unit, shades) {
      if (point.kind === "text" && point.j < 0) return;
      const parents = (j) => data.ancestors[j].filter((a) => !data.ancestors[j].some((b) => data.ancestors[b].includes(a)));
      const others = point.kind === "clip" ? data.clips.truth[point.j]
        : [...parents(point.j), ...data.names.map((_, j) => j).filter((j) => parents(j).includes(point.j))];
      context.strokeStyle = shades["--text"];
      context.lineWidth = 1.4 * unit;
      for (const j of others) if (at[j]) line(plane.geodesic(place(point.z), place(at[j])));
    }

    function select(point) {
      state.selected = point;
      told.replaceChildren();
      if (point) {
        const about = point.kind === "clip" ? "" : point.j < 0 ? " (no class)" : ` (${point.group && point.group !== point.name ? `${point.group}, ` : ""}${counts[point.j]} clips)`;
        told.append(`${point.name}${about} `);
        if (point.kind === "text" && point.j < 0) return paint();
        if (point.kind === "text") told.append(make("button", { type: "button", onclick: () => parts.filterByClass(point.j) }, "Its clips"), " ");
        else told.append(make("button", { type: "button", onclick: () => parts.showClip(point.j) }, "In the table"), " ");
        if (climbs) told.append(make("button", { type: "button", onclick: () => parts.showWay(point.kind === "text" ? "class" : "clip", point.j) }, "Traversal"));
        if (point.kind === "clip") parts.play(point.j);
      }
      paint();
    }

    const still = matchMedia("(prefers-reduced-motion: reduce)");
    function fly(point) {
      const from = place(point.z), base = state.view, began = performance.now(), lasts = still.matches ? 0 : 500;
      const path = plane.geodesic(from, [0, 0], 1);
      select(point);
      (function step() {
        const t = lasts ? Math.min(1, (performance.now() - began) / lasts) : 1;
        const size = plane.size(from), rest = size ? Math.tanh((1 - t) * Math.atanh(size)) / size : 0;
        state.view = plane.after(plane.translation(from, [path[0][0] * rest, path[0][1] * rest]), base);
        paint();
        if (t < 1) requestAnimationFrame(step);
      })();
    }
    function seek() {
      const j = findClass(search.value), point = points.find((p) => p.kind === "text" && p.j === j);
      if (point) fly(point);
      else told.textContent = search.value.trim() ? `No class is called ${search.value}.` : "";
    }
    parts.flyToClip = (i) => {
      const point = points.find((p) => p.kind === "clip" && p.j === i);
      document.getElementById("disk").scrollIntoView();
      if (point) fly(point);
      else told.textContent = `Clip ${data.clips.id[i]} is not among the clips on the disk.`;
    };

    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      state.drag = { from: under(event), base: state.view, x: event.clientX, y: event.clientY, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      const z = under(event);
      if (state.drag) {
        state.drag.moved ||= Math.hypot(event.clientX - state.drag.x, event.clientY - state.drag.y) > 3;
        if (state.drag.moved) state.view = plane.after(plane.translation(state.drag.from, z), state.drag.base);
      } else state.hovered = near(z, 14 * (window.devicePixelRatio || 1));
      paint();
    });
    canvas.addEventListener("pointerup", (event) => {
      const click = state.drag && !state.drag.moved;
      state.drag = null;
      if (click) select(near(under(event), 14 * (window.devicePixelRatio || 1)));
    });
    canvas.addEventListener("pointerleave", () => { state.hovered = null; paint(); });
    canvas.addEventListener("pointercancel", () => { state.drag = null; });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // the wheel alone scrolls the page
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300));
    }, { passive: false });
    function zoom(by) {
      state.zoom = Math.max(0.9, Math.min(40, state.zoom * by));
      paint();
    }
    const step = 0.15;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    canvas.addEventListener("keydown", (event) => {
      if (moves[event.key]) {
        const by = moves[event.key].map((part) => part / state.zoom);
        state.view = plane.after(plane.toward(by), state.view);
        state.hovered = near([0, 0], 60 * (window.devicePixelRatio || 1));
        if (state.hovered) told.textContent = state.hovered.name;
      } else if (event.key === "Home") home();
      else if (event.key === "Enter" || event.key === " ") select(near([0, 0], canvas.width));
      else if (event.key === "+" || event.key === "=") zoom(1.25);
      else if (event.key === "-") zoom(0.8);
      else return;
      event.preventDefault();
      paint();
    });
    function home() {
      state.view = plane.rest;
      fill();
      select(null);
    }

    const outcomes = ["○ best class true", "× best class not true"].map((text, n) => make("li", { class: n ? "bad" : "good" }, text));
    const key = make("ul", { class: "key" }, [...groupNames, ...(data.group_of.includes("") ? [""] : [])].map((group) => {
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = groupColour(group);
      night.addEventListener("change", () => { swatch.style.background = groupColour(group); });
      return make("li", {}, swatch, group || (data.tree_name ? `not in ${data.tree_name}` : "other classes"));
    }), outcomes);
    into.append(figures, make("div", { class: "bar" }, disks.length > 1 ? labelled("file", which) : null,
      tree ? labelled("distances of", layout) : null, labelled("fly to a class", search),
      make("label", { class: "tick" }, texts, "texts (dots)"), make("label", { class: "tick" }, clips, "clips"), make("label", { class: "tick" }, names, "names"),
      make("button", { type: "button", onclick: () => zoom(1.25) }, "Zoom in"), make("button", { type: "button", onclick: () => zoom(0.8) }, "Zoom out"),
      make("button", { type: "button", onclick: home }, "Back to the start")),
    make("div", { class: "split" }, make("div", { class: "stage" }, canvas),
      make("div", { class: "side" }, told, key, make("p", { class: "soft", id: "disk-help" },
        "Drag, or the arrow keys: moves by an isometry, so that any point comes to the centre and no distance changes. A click (or Enter: what is "
        + "nearest to the centre) selects and plays; " + (data.tree_name ? `then its lines in ${data.tree_name} are drawn, as geodesics. ` : "") + "Ctrl and the wheel, + and −: zoom. "
        + "Home: back. The square is the origin" + (tree ? ", of the tree its root" : "") + "; the outer circle is infinitely far."))));
    which.value = String(first.f);
    describe();
    new ResizeObserver(paint).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    parts.disk = { state, where: (n) => place(points[n].z), base: (n) => points[n].z, screen: (z) => {
      const box = canvas.getBoundingClientRect(), [x, y] = screen(z);
      return [box.left + x * box.width / canvas.width, box.top + y * box.height / canvas.height];
    }, canvas, under, points: () => points };
  }
}
