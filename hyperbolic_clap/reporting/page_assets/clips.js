"use strict";
// The clips: sorted, filtered, searched, a page at a time.
{
  const PAGE = 25;
  const into = body("clips");
  const { id, truth, best } = data.clips;
  const state = { order: "row", down: false, page: 0, open: new Set(), confused: null };

  const outcomes = [["", "all clips"]];
  data.files.forEach((file, f) => outcomes.push([`right ${f}`, `right in ${file.label}`], [`wrong ${f}`, `wrong in ${file.label}`]));
  data.files.slice(1).forEach((file, f) => outcomes.push([`gained ${f + 1}`, `gained by ${file.label}`], [`lost ${f + 1}`, `lost by ${file.label}`]));
  const outcome = choice(outcomes, refresh);
  const wanted = make("input", { type: "search", list: "class-names", oninput: refresh });
  const search = make("input", { type: "search", oninput: refresh });
  const audible = make("input", { type: "checkbox", onchange: refresh });
  const only = make("div", { class: "bar" });
  const told = make("p", { class: "soft", "aria-live": "polite" });
  const rows = make("tbody");
  const pager = make("div", { class: "bar" });

  function passes(i) {
    const [kind, f] = outcome.value.split(" ");
    if (kind === "right" && right(f, i) !== true) return false;
    if (kind === "wrong" && right(f, i) !== false) return false;
    if (kind === "gained" && !(right(0, i) === false && right(f, i) === true)) return false;
    if (kind === "lost" && !(right(0, i) === true && right(f, i) === false)) return false;
    const pair = state.confused;
    if (pair && !(truth[i].includes(pair.own) && [0, pair.f].some((g) => best[g][i]?.[0] === pair.best))) return false;
    if (audible.checked && !data.sounds[i]) return false;
    const name = wanted.value.trim().toLowerCase();
    if (name) {
      const exact = classByName.has(name);
      if (!truth[i].some((j) => exact ? data.names[j].toLowerCase() === name : data.names[j].toLowerCase().includes(name))) return false;
    }
    const text = search.value.trim().toLowerCase();
    if (!text) return true;
    const told = [id[i], ...truth[i].map((j) => data.names[j]), ...best.flatMap((file) => file[i] || []).map((j) => data.names[j])];
    return told.some((part) => part.toLowerCase().includes(text));
  }

  const keys = {
    row: (i) => i,
    clip: (i) => id[i].toLowerCase(),
    truth: (i) => (truth[i].length ? data.names[truth[i][0]].toLowerCase() : "￿"),
  };
  data.files.forEach((file, f) => { keys[`best ${f}`] = (i) => (best[f][i] && best[f][i].length ? data.names[best[f][i][0]].toLowerCase() : "￿"); });

  function sorter(key, text) {
    const button = make("button", { type: "button", onclick: () => {
      state.down = state.order === key && !state.down;
      state.order = key;
      refresh();
    } }, text);
    const header = make("th", { scope: "col" }, button);
    header.refresh = () => header.setAttribute("aria-sort", state.order === key ? (state.down ? "descending" : "ascending") : "none");
    return header;
  }
  const headers = [sorter("clip", "clip"), sorter("truth", "true classes"), ...data.files.map((file, f) => sorter(`best ${f}`, file.label))];

  function predictions(f, i) {
    if (!best[f][i]) return make("td", { class: "soft", "data-name": data.files[f].label }, "not in this file");
    return make("td", { "data-name": data.files[f].label }, make("ol", { class: "best" }, best[f][i].map((j) =>
      make("li", { class: truth[i].includes(j) ? "true" : "" }, (truth[i].includes(j) ? "✓ " : "") + data.names[j]))));
  }

  function detail(i) {
    const near = data.nearest.map((of, f) => of && of[i] && make("div", {}, make("h3", {}, `Nearest in ${data.files[f].label}`),
      make("ul", { class: "notes" }, of[i].map((j) => make("li", {},
        make("button", { type: "button", class: "plain", onclick: () => parts.showClip(j) }, id[j]), ` ${parts.truth(j)} `, parts.playButton(j, ""))))));
    const go = make("div", { class: "bar" },
      climbs ? make("button", { type: "button", onclick: () => parts.showWay("clip", i) }, "Traversal") : null,
      parts.flyToClip ? make("button", { type: "button", onclick: () => parts.flyToClip(i) }, "On the disk") : null);
    return make("tr", { class: "detail" }, make("td", { colspan: 2 + data.files.length }, go, make("div", { class: "grid" }, near)));
  }

  function row(i) {
    const open = state.open.has(i);
    const more = make("button", { type: "button", "aria-expanded": String(open), "aria-label": `More about clip ${id[i]}`, onclick: () => {
      state.open.has(i) ? state.open.delete(i) : state.open.add(i);
      show();
      rows.querySelector(`[data-clip="${i}"] button[aria-expanded]`).focus();
    } }, open ? "Less" : "More");
    const line = make("tr", { "data-clip": i },
      make("td", { class: "clip-id" }, make("div", {}, id[i]), make("div", { class: "listen" }, parts.thumbnail(i), parts.playButton(i), more)),
      make("td", { "data-name": "true classes" }, parts.truth(i)), data.files.map((file, f) => predictions(f, i)));
    return open ? [line, detail(i)] : [line];
  }

  let shown = [];
  function show() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    rows.replaceChildren(...shown.slice(state.page * PAGE, (state.page + 1) * PAGE).flatMap(row));
    told.textContent = `${shown.length} of ${id.length} clips`;
    const turn = (text, by) => make("button", { type: "button", disabled: state.page + by < 0 || state.page + by >= pages, onclick: () => {
      state.page += by;
      show();
    } }, text);
    pager.replaceChildren(turn("Previous", -1), make("span", {}, `page ${state.page + 1} of ${pages}`), turn("Next", 1));
  }

  function refresh() {
    const key = keys[state.order], sign = state.down ? -1 : 1;
    shown = id.map((_, i) => i).filter(passes).map((i) => [key(i), i]);
    shown.sort(([a, i], [b, j]) => (a < b ? -sign : a > b ? sign : i - j));
    shown = shown.map(([, i]) => i);
    state.page = 0;
    only.replaceChildren(...(state.confused ? [make("button", { type: "button", onclick: () => { state.confused = null; refresh(); } },
      `${data.names[state.confused.own]} answered as ${data.names[state.confused.best]} ✕`)] : []));
    headers.forEach((header) => header.refresh());
    show();
  }

  function go() {
    document.getElementById("clips").scrollIntoView();
  }
  parts.filterByOutcome = (kind) => {
    wanted.value = search.value = "";
    outcome.value = kind;
    state.confused = null;
    refresh();
    go();
    outcome.focus({ preventScroll: true });
  };
  parts.filterByConfusion = (f, own, bestOf) => {
    wanted.value = search.value = outcome.value = "";
    state.confused = { f, own, best: bestOf };
    refresh();
    go();
    only.querySelector("button").focus({ preventScroll: true });
  };
  parts.filterByClass = (j) => {
    wanted.value = data.names[j];
    search.value = outcome.value = "";
    state.confused = null;
    refresh();
    go();
    wanted.focus({ preventScroll: true });
  };
  parts.showClip = (i) => {
    wanted.value = outcome.value = "";
    search.value = id[i];
    audible.checked = false;
    state.confused = null;
    state.open.add(i);
    refresh();
    go();
  };

  if (id.length) {
    into.append(make("div", { class: "bar" }, labelled("outcome", outcome), labelled("true class", wanted), labelled("search", search),
      Object.keys(data.sounds).length ? make("label", { class: "tick" }, audible, "only with sound") : null),
    only, told, make("table", { class: "cards" }, make("thead", {}, make("tr", {}, headers)), rows), pager);
    refresh();
  } else into.append(make("p", {}, `${data.files[0].label} holds no predictions, so there are no clips to show.`));
}
