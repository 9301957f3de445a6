"use strict";

// The table of pairs, the view of one pair, and the navigation between views. `overview.js` comes before it in the same
// script. `make` puts all data into text nodes; no data is parsed as HTML.

const PAGE_SIZE = 50;
const MIN_DESCRIPTION = 30;  // characters of a description that the table leaves out
const MIN_FOLD = 120;  // characters of a shared stretch that is folded
const MAX_SHOWN = 40;  // characters of it that are shown at each end
const WORDS = new Intl.Segmenter(undefined, { granularity: "word" });
// Borders of the five shades, and their names in the legend.
const SHADES = [[-Math.log(10 / 9), "90% and more"], [-Math.log(2), "50 to 90%"], [-Math.log(10), "10 to 50%"],
  [-Math.log(100), "1 to 10%"], [-Infinity, "less than 1%"]];
// Control characters except line ends and tabs, marks that change the direction of text, characters without width, and
// single surrogates (halves of characters). The zero-width space ends a word in some scripts and stays there.
const SPACELESS = ["Thai", "Lao", "Khmer", "Myanmar", "Tibetan"].map(script => `\\p{Script=${script}}`).join("");
const INVISIBLE = new RegExp("[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200e\\u200f" +
  "\\u2028-\\u202e\\u2060-\\u2069\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff]" +
  `|(?<![${SPACELESS}])\\u200b(?![${SPACELESS}])`, "gu");

const summary = JSON.parse(byId("summary-data").textContent);
const unit = summary.unit, oneOf = unit.slice(0, -1);
let pairs = [];
let places = new Map();  // from the row of a pair to its place in `pairs`
const descriptions = new Map();  // from a task to the length of its description
let order = [];  // places of the pairs that pass the filters, sorted
const view = { search: "", task: "", origin: "", problem: "", sort: "row", descending: false, page: 0 };

// Small parts

function byId(id) { return document.getElementById(id); }

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

function visible(text) {
  return text.replace(INVISIBLE, codePoint);
}

function codePoint(character) {
  return `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

function showSpace(text) {
  const names = { " ": "␣", "\t": "⇥", "\n": "⏎\n" };
  return text.trim() ? text : text.replace(/\s/g, space => names[space] || codePoint(space));
}

function isNumber(value) { return typeof value === "number" && Number.isFinite(value); }
function percent(value, digits = 1) { return isNumber(value) ? `${(100 * value).toFixed(digits)}%` : "–"; }
function decimals(value) { return isNumber(value) ? value.toFixed(2) : "–"; }
function count(value) { return isNumber(value) ? value.toLocaleString("en") : "–"; }
function signed(value) { return isNumber(value) ? String(value).replace("-", "−") : "–"; }
function nats(value) { return isNumber(value) ? value.toFixed(2).replace("-", "−") : "–"; }
function bdi(text) { return make("bdi", {}, visible(text)); }

function shortName(name) {
  const letters = [...visible(name)];
  return make("bdi", {}, letters.length > 40 ? letters.slice(0, 39).join("") + "…" : letters.join(""));
}

function table(head, rows, caption) {
  const numeric = index => rows.some(row => row[index].number);
  const properties = { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption };
  return make("div", properties, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((name, index) =>
      make("th", { scope: "col", className: numeric(index) ? "number" : "" }, name)))),
    make("tbody", {}, ...rows.map(row => make("tr", {}, ...row.map((cell, index) => {
      const element = make(index ? "td" : "th", { className: cell.number ? "number" : "name" }, cell.content);
      if (!index) element.scope = "row";
      if (isNumber(cell.share)) {
        element.classList.add("share");
        element.style.setProperty("--share", 100 * Math.min(cell.share, 1));
      }
      return element;
    }))))));
}

// A sentence that is not from the data, in which backticks enclose code.
function prose(content) {
  return content.split("`").map((part, index) => index % 2 ? make("code", {}, visible(part)) : visible(part));
}

function text(content) { return { content }; }
function number(content, share) { return { content, number: true, share }; }

// Pairs: filters, order, and one page of the table

function readPairs() {
  const { columns } = summary;
  const rows = JSON.parse(byId("pairs-data").textContent);
  pairs = rows.map(row => {
    const pair = Object.fromEntries(columns.map((name, index) => [name, row[index]]));
    const length = pair.num_chosen + pair.num_rejected;
    pair.key_token_ratio = length ? (pair.num_chosen_key + pair.num_rejected_key) / length : null;
    pair.shared_start = length ? pair.num_shared / Math.max(pair.num_chosen, pair.num_rejected) : null;
    return pair;
  });
  places = new Map(pairs.map((pair, place) => [pair.row, place]));
  byId("pairs-data").remove();
}

// By task, the number of characters with which all prompts begin, up to the end of a line or sentence. The task is
// described there; the table shows what comes after it.
function findDescriptions() {
  const shared = new Map();
  for (const pair of pairs) {
    if (pair.raw) continue;
    const seen = shared.get(pair.task);
    if (seen === undefined) { shared.set(pair.task, { start: pair.prompt, num: 1 }); continue; }
    let length = 0;
    while (length < seen.start.length && seen.start[length] === pair.prompt[length]) length++;
    seen.start = seen.start.slice(0, length);
    seen.num++;
  }
  for (const [task, { start, num }] of shared) {
    const end = Math.max(start.lastIndexOf("\n"), start.lastIndexOf(". "), start.lastIndexOf("。"));
    if (num > 1 && end >= MIN_DESCRIPTION) descriptions.set(task, end + 1);
  }
}

function columnsOfTable() {
  const columns = [{ name: "row", label: "Row" }];
  if (pairs.some(pair => pair.task !== null)) columns.push({ name: "task", label: "Task", data: true });
  if (pairs.some(pair => pair.origin !== null)) columns.push({ name: "origin", label: "Origin", data: true });
  columns.push({ name: "prompt", label: "Prompt", data: true });
  if (pairs.some(pair => pair.problems.length)) {
    columns.push({ name: "problems", label: "Problems", largestFirst: true });
  }
  columns.push(
    { name: "key_token_ratio", label: `Key ${unit}`, show: percent, largestFirst: true },
    { name: "similarity", label: "Similarity", show: decimals },
    { name: "shared_start", label: "Shared start", show: value => percent(value, 0) },
    { name: "num_prompt", label: "Prompt length", show: count, largestFirst: true },
    { name: "num_chosen", label: "Right length", show: count, largestFirst: true },
    { name: "num_rejected", label: "Wrong length", show: count, largestFirst: true });
  if (summary.has_log_probs) {
    columns.push({ name: "key_log_prob_chosen", label: "Right key log p", show: nats },
      { name: "key_log_prob_rejected", label: "Wrong key log p", show: nats });
  }
  if (pairs.some(pair => pair.num_cut)) {
    columns.push({ name: "num_cut", label: "Cut", show: count, largestFirst: true });
  }
  return columns;
}

let tableColumns = [];

function textOf(pair) {
  if (pair.text === undefined) {
    const sides = pair.raw ? Object.values(pair.raw) : ["chosen", "rejected"].map(side =>
      pair[side].map(segment => typeof segment === "string" ? segment : segment[0]).join(""));
    pair.text = [pair.prompt, ...sides, ...(pair.replies || []).map(([, reply]) => reply)].join("\n").toLowerCase();
  }
  return pair.text;
}

function passes(pair) {
  if (view.task && pair.task !== view.task) return false;
  if (view.origin && pair.origin !== view.origin) return false;
  if (view.problem === "(none)" ? pair.problems.length : view.problem === "(any)" ? !pair.problems.length :
    view.problem && !pair.problems.includes(view.problem)) return false;
  return !view.search || textOf(pair).includes(view.search);
}

function compare(a, b) {
  [a, b] = [a[view.sort], b[view.sort]].map(value => Array.isArray(value) ? value.length : value);
  if (a === null || b === null) return (a === null) - (b === null);  // last in both directions
  const sign = view.descending ? -1 : 1;
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

function arrange() {
  order = pairs.map((_, place) => place).filter(place => passes(pairs[place]));
  order.sort((a, b) => compare(pairs[a], pairs[b]) || a - b);
  view.page = 0;
  showTable();
}

function resetFilters() { Object.assign(view, { search: "", task: "", origin: "", problem: "" }); }

function readFilters() {
  view.search = byId("search").value.toLowerCase();
  for (const name of ["task", "origin", "problem"]) view[name] = byId(name).value;
  arrange();
}

function fillFilters() {
  for (const name of ["task", "origin"]) {
    const counted = summary[`by_${name}`].map(([value]) => value);  // a sample may have none of them
    const values = [...new Set([...counted, ...pairs.map(pair => pair[name]).filter(value => value !== null)])].sort();
    byId(name).append(make("option", { value: "" }, "all"),
      ...values.map(value => make("option", { value }, shortName(value).textContent)));
    byId(name).parentElement.hidden = !values.length;
  }
  const problems = Object.keys(summary.problems);
  byId("problem").append(make("option", { value: "" }, "with or without"), make("option", { value: "(none)" }, "none"),
    make("option", { value: "(any)" }, "any"), ...problems.map(value => make("option", { value }, value)));
  byId("problem").parentElement.hidden = !problems.length;
}

function showTable() {
  const num = order.length;
  byId("found").textContent = `${num === pairs.length ? "" : `${count(num)} of `}${count(pairs.length)} pairs` +
    (pairs.length < summary.rows ? " in this file" : "");
  byId("columns").replaceChildren(...tableColumns.map(column => {
    const isSorted = view.sort === column.name;
    const arrow = isSorted ? (view.descending ? " ▼" : " ▲") : "";
    const head = make("th", { scope: "col", className: column.show ? "number" : "" });
    head.setAttribute("aria-sort", isSorted ? (view.descending ? "descending" : "ascending") : "none");
    head.append(make("button", { type: "button", id: `sort-${column.name}`, click: () => {
      view.descending = isSorted ? !view.descending : Boolean(column.largestFirst);
      view.sort = column.name;
      arrange();
      byId(`sort-${column.name}`).focus();
    } }, column.label + arrow));
    return head;
  }));
  const start = view.page * PAGE_SIZE;
  byId("rows").replaceChildren(...order.slice(start, start + PAGE_SIZE).map(place => tableRow(pairs[place])));
  const numPages = Math.max(1, Math.ceil(num / PAGE_SIZE));
  const turn = (label, page, isOn) =>
    make("button", { type: "button", disabled: !isOn, click: () => turnTo(page) }, label);
  byId("pages").replaceChildren(turn("First", 0, view.page > 0), turn("Previous", view.page - 1, view.page > 0),
    make("span", {}, `Page ${count(view.page + 1)} of ${count(numPages)}`),
    turn("Next", view.page + 1, view.page + 1 < numPages), turn("Last", numPages - 1, view.page + 1 < numPages));
  byId("pages").hidden = numPages === 1;
}

function turnTo(page) {
  view.page = page;
  showTable();
  byId("pairs-title").scrollIntoView();
}

function tableRow(pair) {
  const cells = tableColumns.map(column => {
    const value = pair[column.name];
    // On a narrow screen the cells of a row stand one below the other, each with the name of its column.
    const cell = (className, content) => make("td", { className, "data-label": column.label }, content);
    if (column.name === "row") {
      return make("th", { scope: "row" }, make("a", { href: `#pair=${pair.row}` }, String(pair.row)));
    }
    if (column.name === "prompt") {
      return cell("", make("div", { className: "data excerpt", dir: "auto" }, excerpt(pair)));
    }
    if (column.name === "problems") return cell("", make("div", {}, ...problemTags(pair)));
    if (column.data) return cell("name", value === null ? "–" : shortName(value));
    return cell("number", column.show(value));
  });
  return make("tr", { click: event => {
    if (!event.target.closest("a") && !String(getSelection())) location.hash = `#pair=${pair.row}`;
  } }, ...cells);
}

function excerpt(pair) {
  const prompt = pair.raw ? Object.values(pair.raw).join(" ") : pair.prompt;
  const start = pair.raw ? 0 : descriptions.get(pair.task) || 0;
  const shown = prompt.length > start ? prompt.slice(start, start + 300).replace(/[\ud800-\udbff]$/, "").trim() : "";
  return visible(shown && start ? `… ${shown}` : shown || prompt.slice(0, 300).trim());
}

function problemTags(pair) {
  return pair.problems.map(name =>
    make("span", { className: "tag problem", title: summary.problem_texts[name] }, name));
}

// One pair

let current = null;  // the row shown

function placeInOrder() {
  const place = places.get(current);
  const index = order.indexOf(place);
  // A link may open a pair that the filters hide. Then "next" and "previous" go through all pairs.
  return index < 0 ? [pairs.map((_, place) => place), place] : [order, index];
}

function move(step) {
  const [list, index] = placeInOrder();
  const next = list[index + step];
  if (next !== undefined) location.hash = `#pair=${pairs[next].row}`;
}

function showPair(row) {
  const place = places.get(row);
  const pair = pairs[place];
  current = row;
  byId("pair-title").textContent = `${pair && pair.raw && "completion" in pair.raw ? "Completion" : "Pair"} ${row}`;
  for (const id of ["about", "texts", "edit", "legend"]) byId(id).replaceChildren();
  byId("edit").hidden = byId("legend").hidden = true;
  if (pair === undefined) {
    byId("place").textContent = "";
    byId("previous").disabled = byId("next").disabled = true;
    byId("texts").append(make("p", { className: "notice" }, pairs.length === summary.rows ? "There is no such pair." :
      `This pair is not in this file. Of ${count(summary.rows)} rows it holds ${describeSample()}.`));
    return;
  }
  const [list, index] = placeInOrder();
  byId("place").textContent = `${count(index + 1)} of ${count(list.length)}`;
  byId("previous").disabled = index === 0;
  byId("next").disabled = index + 1 === list.length;
  byId("about").append(...aboutPair(pair));
  showTexts(pair);
}

function aboutPair(pair) {
  const names = [pair.task, pair.origin].filter(name => name !== null);
  const parts = names.map(name => make("span", { className: "tag" }, bdi(name)));
  if (!pair.raw) {
    const both = (chosen, rejected) => `${count(chosen)} right, ${count(rejected)} wrong`;
    parts.push(`${percent(pair.key_token_ratio)} key (${both(pair.num_chosen_key, pair.num_rejected_key)})`,
      `similarity ${decimals(pair.similarity)}`, `first ${percent(pair.shared_start, 0)} shared`,
      `${count(pair.num_prompt)} ${unit} of prompt, ${both(pair.num_chosen, pair.num_rejected)}`);
    if (pair.num_cut) parts.push(`${count(pair.num_cut)} cut, ${count(pair.num_key_cut)} of them key`);
    if (isNumber(pair.key_log_prob_chosen) || isNumber(pair.key_log_prob_rejected)) {
      parts.push(`mean log p of key tokens ${nats(pair.key_log_prob_chosen)} right, ` +
        `${nats(pair.key_log_prob_rejected)} wrong`);
    }
  }
  if (pair.answer !== null) parts.push(make("span", {}, "answer ", bdi(pair.answer)));
  const line = make("div", { className: "legend" },
    ...parts.map(part => typeof part === "string" ? make("span", {}, part) : part));
  const problems = pair.problems.map(name =>
    make("p", { className: "notice" }, make("strong", {}, name), ": ", ...prose(summary.problem_texts[name])));
  return [line, ...problems];
}

function showTexts(pair) {
  const box = (className, title, ...content) =>
    make("section", { className, "aria-label": title }, make("h3", {}, title), ...content);
  const raw = name => make("div", { className: "data", dir: "auto" }, visible(pair.raw[name]));
  const texts = byId("texts");
  texts.replaceChildren();
  texts.className = byId("shade").value === "all" && summary.has_log_probs ? "shade-all" : "";
  if (pair.raw) {
    texts.append(...Object.keys(pair.raw).map(name => box("prompt", name, raw(name))));
    return;
  }
  const edits = new Map();  // from the number of an edit to its elements and tokens
  const prompt = visible(pair.prompt).trim();
  texts.append(box("prompt", "Prompt", make("div", { className: "data", dir: "auto" }, prompt || "(empty)")),
    make("div", { className: "chains" }, box("right", "Right chain", chain(pair, "chosen", edits)),
      box("wrong", "Wrong chain", chain(pair, "rejected", edits))), replies(pair));
  byId("edit").hidden = !edits.size;
  byId("edit").replaceChildren(make("p", { className: "dim" }, edits.size ?
    `Point at or move to a key ${oneOf} to see its counterpart and its weight.` : ""));
  byId("legend").hidden = false;
  byId("legend").replaceChildren(...legend());
}

// What students answer to the prompt.
function replies(pair) {
  if (!pair.replies) return "";
  return make("div", { className: "chains" }, ...pair.replies.map(([name, reply]) =>
    make("section", { className: "reply", "aria-label": visible(name) }, make("h3", {}, bdi(name)),
      make("div", { className: "data", dir: "auto" }, visible(reply).trim() || "(empty)"))));
}

function legend() {
  const sample = (side, label) =>
    make("span", { className: side }, make("span", { className: "key" }, "text"), ` ${label}`);
  const parts = [sample("right", "key, pulled towards"), sample("wrong", "key, pushed away"),
    make("span", {}, make("span", { className: "shared" }, "text"), " in both chains"),
    make("span", { className: "wrong" }, make("span", { className: "gap" }),
      " nothing here, something in the other chain")];
  if (summary.has_log_probs && byId("shade").value !== "none") {
    parts.push(make("span", {}, "probability under the model:"),
      ...SHADES.map(([, name], shade) => make("span", { className: `shaded p${shade}` }, name)));
  }
  return parts;
}

function chain(pair, side, edits, isFolded = byId("fold").checked) {
  const box = make("div", { className: "data chain", dir: "auto" });
  let group = null, groupEdit = null;
  let numStray = 0;  // weights in the dataset may mark key tokens outside of all edits
  let shared = null;
  for (const segment of pair[side]) {
    let [piece, weight, isKey, edit, logProb] = typeof segment === "string" ? [segment, 0, 0, -1] :
      segment.length === 2 ? [segment[0], 0, 0, -1, segment[1]] : segment;
    if (!box.hasChildNodes()) piece = piece.replace(isKey ? /^ +(?=\S)/ : /^ +/, "");
    if (edit < 0 && !isKey) {
      group = groupEdit = null;
      if (shared === null) box.append(shared = make("span", { className: "shared" }));
      shared.append(token(piece, logProb, false));
      continue;
    }
    shared = null;
    if (group === null || groupEdit !== edit) {
      groupEdit = edit;
      const name = edit < 0 ? `${side} ${numStray++}` : edit;
      if (!edits.has(name)) edits.set(name, { elements: [], chosen: [], rejected: [] });
      const entry = edits.get(name);
      const show = () => showEdit(entry, edits);
      group = make("span", piece ? { className: "edit", tabIndex: 0, role: "button", "aria-controls": "edit",
        mouseenter: show, focus: show, click: show } : { className: "gap", mouseenter: show });
      entry.elements.push(group);
      group.entry = entry;
      box.append(group);
    }
    if (piece) {
      group.entry[side].push({ piece, weight, logProb });
      const lead = /^[ \n\t]*/.exec(piece)[0];
      if (piece.trim() && lead) group.append(lead);
      const element = token(piece.trim() ? piece.slice(lead.length) : piece, logProb, true, isKey);
      element.classList.add(isKey ? "key" : "unweighted");
      group.append(element);
    }
  }
  if (isFolded) for (const stretch of box.querySelectorAll(".shared")) fold(stretch);
  return box;
}

function token(piece, logProb, isEdit, isKey = false) {
  const mode = byId("shade").value;
  const isShaded = isNumber(logProb) && (mode === "all" || mode === "key" && isKey);
  if (!isEdit && !isShaded) return visible(piece);
  const element = make("span", {}, isEdit ? showSpace(visible(piece)) : visible(piece));
  if (isShaded) element.classList.add("shaded", `p${SHADES.findIndex(([border]) => logProb >= border)}`);
  if (isShaded && !isEdit) element.title = `log p ${nats(logProb)}`;
  return element;
}

function fold(stretch) {
  const content = stretch.textContent;
  if (content.length < MIN_FOLD) return;
  const isFirst = !stretch.previousSibling, isLast = !stretch.nextSibling;
  // Cut between words, which need no spaces between them. So no character of several codes is torn either.
  const borders = text => Array.from(WORDS.segment(text), word => word.index);
  const start = content.slice(0, 2 * MAX_SHOWN), end = content.slice(-2 * MAX_SHOWN);
  const head = isFirst ? "" : start.slice(0, borders(start).filter(place => place <= MAX_SHOWN).pop());
  const tail = isLast ? "" : end.slice(borders(end).find(place => place >= end.length - MAX_SHOWN) ?? end.length);
  const nodes = [...stretch.childNodes];
  const numHidden = content.length - head.length - tail.length;
  const opener = make("button", { type: "button", className: "fold", "aria-expanded": "false", click: () => {
    stretch.replaceChildren(...nodes);
    stretch.tabIndex = -1;
    stretch.focus();
  } }, `… ${count(numHidden)} characters …`);
  stretch.replaceChildren(head, opener, tail);
}

function showEdit(entry, edits) {
  for (const other of edits.values()) {
    for (const element of other.elements) element.classList.toggle("active", other === entry);
  }
  const note = content => make("span", { className: "dim" }, content);
  const logP = value => isNumber(value) ? `, log p ${nats(value)} (${percent(Math.exp(value))})` : "";
  const line = (label, tokens) => make("p", {}, make("strong", {}, `${label}: `),
    ...tokens.map(({ piece, weight, logProb }) => make("span", { className: "token" },
      "“", bdi(showSpace(piece)), "” ", note(`weight ${signed(weight)}${logP(logProb)}`))),
    tokens.length ? null : note("nothing"));
  byId("edit").replaceChildren(line("Right", entry.chosen), line("Wrong", entry.rejected));
}

// Views, keys, theme

function showView() {
  const match = /^#pair=(\d+)$/.exec(location.hash);
  const name = match ? "pair" : location.hash === "#pairs" ? "pairs" : "overview";
  for (const id of ["overview", "pairs", "pair"]) byId(id).hidden = id !== name;
  for (const id of ["overview", "pairs"]) {
    if (id === name || id === "pairs" && match) byId(`to-${id}`).setAttribute("aria-current", "page");
    else byId(`to-${id}`).removeAttribute("aria-current");
  }
  return [name, match && Number(match[1])];
}

function route() {
  const [name, row] = showView();
  if (name === "pair") showPair(row);
  if (name === "overview" && !byId("example").hasChildNodes()) showExample();
  if (name === "pairs" && current !== null) {  // back on the page, and at the row, of the pair last shown
    const index = order.indexOf(places.get(current));
    if (index >= 0) view.page = Math.floor(index / PAGE_SIZE);
    showTable();
    const link = byId("rows").querySelector(`a[href="#pair=${current}"]`);
    current = null;
    if (link) { link.focus(); link.scrollIntoView({ block: "center" }); return; }
  }
  byId(`${name}-title`).focus({ preventScroll: true });
  scrollTo(0, 0);
}

function moveInTable(step) {
  const links = [...byId("rows").querySelectorAll("a")];
  const index = links.indexOf(document.activeElement);
  const next = index < 0 ? 0 : index + step;
  if (links[next]) links[next].focus();
  else if (step > 0 && (view.page + 1) * PAGE_SIZE < order.length) { turnTo(view.page + 1); moveInTable(1); }
  else if (step < 0 && view.page > 0) { turnTo(view.page - 1); byId("rows").querySelector("tr:last-child a").focus(); }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (!byId("pair").hidden) {
    if (event.key === "Escape") location.hash = "#pairs";
    if (isTyping) return;
    if (event.key === "j" || event.key === "ArrowRight") { event.preventDefault(); move(1); }
    if (event.key === "k" || event.key === "ArrowLeft") { event.preventDefault(); move(-1); }
  } else if (!byId("pairs").hidden && !isTyping) {
    const isInRows = byId("rows").contains(event.target);
    if (event.key === "j" || isInRows && event.key === "ArrowDown") { event.preventDefault(); moveInTable(1); }
    if (event.key === "k" || isInRows && event.key === "ArrowUp") { event.preventDefault(); moveInTable(-1); }
  }
}

const THEMES = { system: "as the system", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${THEMES[theme]}`;
  try { localStorage.setItem("edit-trl-theme", theme); } catch { /* a page from a file may have no storage */ }
}

function storedTheme() {
  try {
    const theme = localStorage.getItem("edit-trl-theme");
    return theme in THEMES ? theme : "system";
  } catch { return "system"; }
}

setTheme(storedTheme());
byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme || "system") + 1) % names.length]);
});
showOverview();
showView();
document.addEventListener("DOMContentLoaded", () => {
  // The overview is painted before the pairs are read. A page in the background is not painted at all.
  requestAnimationFrame(() => setTimeout(start));
  setTimeout(start, 200);
});

function start() {
  if (!byId("pairs-data")) return;
  readPairs();
  findDescriptions();
  tableColumns = columnsOfTable();
  fillFilters();
  byId("shade-label").hidden = !summary.has_log_probs;
  byId("filters").addEventListener("input", readFilters);
  byId("filters").addEventListener("submit", event => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(readFilters));
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  for (const id of ["fold", "shade"]) byId(id).addEventListener("input", () => showTexts(pairs[places.get(current)]));
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", route);
  arrange();
  route();
}
