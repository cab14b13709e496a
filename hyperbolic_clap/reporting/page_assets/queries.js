"use strict";
// The queries of retrieval in both directions: their ranks, what each file found, the clips with players.
{
  const PAGE = 10, WAYS = { text_to_audio: "text → audio", audio_to_text: "audio → text" };
  const into = body("queries");
  const { id, captions } = data.clips;
  const state = { page: 0 };
  const direction = choice(Object.entries(WAYS), refresh);
  const kinds = [["", "all queries"]];
  data.files.slice(1).forEach((file, n) => [["gained", "gained by"], ["lost", "lost by"], ["better", "better rank in"], ["worse", "worse rank in"]]
    .forEach(([kind, text]) => kinds.push([`${kind} ${n + 1}`, `${text} ${file.label}`])));
  const outcome = choice(kinds, refresh);
  const search = make("input", { type: "search", oninput: refresh });
  const told = make("p", { class: "soft", "aria-live": "polite" });
  const rows = make("tbody"), pager = make("div", { class: "bar" });

  parts.truth = (clip) => captions[clip].map((text) => `“${text}”`).join("; ");
  // Gained: the first place is right now and was not before.
  parts.changed = (kind, f, { ranks }) => {
    const [before, after] = [ranks[0], ranks[f]];
    if (before === null || after === null) return false;
    return { gained: before > 1 && after === 1, lost: before === 1 && after > 1, better: after < before, worse: after > before }[kind];
  };
  parts.filterQueries = (way, kind) => {
    direction.value = way;
    outcome.value = kind;
    search.value = "";
    refresh();
    document.getElementById("queries").scrollIntoView();
    outcome.focus({ preventScroll: true });
  };

  function clipOf(i, text) {
    const own = captions[i].includes(text), more = captions[i].length - 1; // all of them stand beside the player
    return make("li", { class: own ? "true" : "" }, make("div", { class: "listen" }, (own ? "✓ " : "") + id[i], parts.playButton(i, "")),
      make("div", { class: "soft" }, `“${own ? text : captions[i][0]}”${more ? ` and ${more} more` : ""}`));
  }
  function result(query, f) {
    const found = query.found[f], rank = query.ranks[f];
    const list = found && make("ol", { class: "found" }, direction.value === "text_to_audio"
      ? found.filter((i) => i >= 0).map((i) => clipOf(i, query.text))
      : found.map((text) => make("li", { class: captions[query.clip].includes(text) ? "true" : "" }, (captions[query.clip].includes(text) ? "✓ " : "") + text)));
    return make("td", { "data-name": data.files[f].label }, make("div", { class: rank === 1 ? "good" : "" }, rank === null ? "not in this file" : `rank ${rank}`), list);
  }
  function row(query) {
    return make("tr", { "data-clip": query.clip }, make("td", { class: "clip-id" },
      query.text === undefined ? null : make("div", {}, `“${query.text}”`),
      make("div", { class: "listen" }, parts.thumbnail(query.clip), parts.playButton(query.clip), make("span", {}, id[query.clip])),
      query.text === undefined ? make("div", { class: "soft" }, parts.truth(query.clip)) : null),
    data.files.map((_, f) => result(query, f)));
  }
  let shown = [];
  function show() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    rows.replaceChildren(...shown.slice(state.page * PAGE, (state.page + 1) * PAGE).map(row));
    told.textContent = `${shown.length} of ${data.queries[direction.value].length} queries`;
    const turn = (text, by) => make("button", { type: "button", disabled: state.page + by < 0 || state.page + by >= pages, onclick: () => {
      state.page += by;
      show();
    } }, text);
    pager.replaceChildren(turn("Previous", -1), make("span", {}, `page ${state.page + 1} of ${pages}`), turn("Next", 1));
  }
  function refresh() {
    const [kind, f] = outcome.value.split(" "), text = search.value.trim().toLowerCase();
    shown = data.queries[direction.value].filter((query) => (!kind || parts.changed(kind, Number(f), query))
      && (!text || [id[query.clip], ...captions[query.clip]].some((part) => part.toLowerCase().includes(text))));
    state.page = 0;
    show();
  }
  into.append(make("p", {}, "The rank is that of the first right answer; below it what the file found first. A text's answer is the clip it is said of, a clip's any of its captions. "
    + "Gained: the first place is right and was not in the baseline; lost: the other way round."),
    make("div", { class: "bar" }, labelled("direction", direction), labelled("outcome", outcome), labelled("search", search)), told,
    make("table", { class: "cards" }, make("thead", {}, make("tr", {}, ["query", ...data.files.map((file) => file.label)].map((text) => make("th", { scope: "col" }, text)))), rows), pager);
  refresh();

  // On top: how many queries each file gained and lost, leading to them.
  const lines = Object.entries(WAYS).flatMap(([way, words]) => data.files.slice(1).map((file, n) => {
    const link = (kind) => {
      const count = data.queries[way].filter((query) => parts.changed(kind, n + 1, query)).length;
      return make("button", { type: "button", class: "plain", onclick: () => parts.filterQueries(way, `${kind} ${n + 1}`) }, `${count} ${count === 1 ? "query" : "queries"} ${kind}`);
    };
    return make("li", {}, `${words}, ${file.label} against ${data.files[0].label}: `, link("gained"), " and ", link("lost"), ".");
  }));
  body("verdict").prepend(make("ul", { class: "notes", id: "became" }, lines));
}
