"use strict";

// The overview: statistics, plots and tables. It is shown before the pairs are read.

const MIN_BAR_AXIS = 0.15;  // bars of small ratios do not fill their axis

function showOverview() {
  showCards();
  if (summary.embedded < summary.rows) {
    byId("notices").append(make("p", { className: "notice" },
      `The numbers are of all ${count(summary.rows)} rows. Pairs are shown of a part of them: ${describeSample()}.`));
  }
  if (summary.advice.length) {
    byId("advice").append(make("h3", {}, "Advice"),
      make("ul", { className: "advice" }, ...summary.advice.map(advice => make("li", {}, ...prose(advice)))));
  }
  showProblems();
  byId("plots").append(...summary.histograms.map(histogram));
  if (summary.key_ratio_by_task.length) byId("plots").append(taskBars(summary.key_ratio_by_task));
  showQuantiles();
  showGroups();
  showFrequent();
  const { padded, shared_prefix: shared } = summary.cost;
  if (padded) {
    byId("tables").append(make("h3", {}, "Cost"), make("p", {},
      `An epoch takes ${count(padded)} ${unit} through the model in two rows per pair, ${count(shared)} with ` +
      `shared_prefix (${percent(shared / padded, 0)}).`));
  }
  showProvenance();
}

function describeSample() {
  return `a random sample of ${count(summary.sampled)}, in which each row was equally likely, and up to ` +
    `${count(summary.examples)} of each problem`;
}

function showProvenance() {
  byId("provenance").append(make("h3", {}, "About this report"), make("dl", { className: "provenance" },
    ...summary.provenance.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, bdi(value))))));
}

// The first pair without problems, as its own view shows it. The pairs have been read.
function showExample() {
  const pair = pairs.find(pair => !pair.raw && pair.chosen.length && pair.rejected.length && !pair.problems.length);
  if (pair === undefined) return;
  const side = (className, title, name) => make("section", { className, "aria-label": title }, make("h3", {}, title),
    chain(pair, name, new Map(), true));
  byId("example").append(make("h3", {}, "An example: ", make("a", { href: `#pair=${pair.row}` }, `pair ${pair.row}`)),
    make("p", { className: "data dim excerpt", dir: "auto" }, excerpt(pair)),
    make("div", { className: "chains" }, side("right", "Right chain", "chosen"),
      side("wrong", "Wrong chain", "rejected")), replies(pair));
}

function showCards() {
  const { key_token_ratio: ratio, truncation } = summary;
  const card = (name, value, note) => make("div", {}, make("dt", {}, name), make("dd", {}, value),
    make("dd", { className: "dim" }, note));
  byId("cards").append(
    card("Pairs", count(summary.pairs), `${count(summary.readable_pairs)} can be read`),
    ...(summary.completions ? [card("Completions", count(summary.completions), "rows without a wrong chain")] : []),
    card(`Key ${unit}`, percent(ratio.both.mean),
      `${percent(summary.paper.key_token_ratio)} of the tokens in the paper`),
    card("Similarity", decimals(summary.similarity.mean), "share without edits"),
    card("Shared start", percent(summary.shared_start.mean, 0), "before the first difference"),
    card("With problems", count(summary.with_problems), "see below"),
    card(`Cut ${unit}`, count(truncation[unit]), truncation.max_length === null ? "no limit" :
      `${count(truncation[`key_${unit}`])} key, at max_length ${count(truncation.max_length)}`));
}

function showProblems() {
  const rows = Object.entries(summary.problems).map(([name, num]) => [text(filterButton("problem", name, name)),
    text(make("span", {}, ...prose(summary.problem_texts[name]))), number(count(num))]);
  byId("problems").append(make("h3", {}, "Problems"),
    rows.length ? table(["Problem", "", "Pairs"], rows, "Problems") : make("p", {}, "None was found."));
}

function showQuantiles() {
  const ratio = summary.key_token_ratio;
  const quantiles = Object.keys(ratio.both.quantiles);
  const lines = [[`Key ${unit}`, ratio.both], ["of the right chain", ratio.chosen],
    ["of the wrong chain", ratio.rejected], ["Similarity", summary.similarity],
    ["Shared start", summary.shared_start]];
  byId("tables").append(make("h3", {}, "Mean and quantiles"),
    table(["", "Mean", ...quantiles.map(share => percent(Number(share), 0))],
      lines.map(([name, numbers]) => [text(name), number(percent(numbers.mean)),
        ...quantiles.map(share => number(percent(numbers.quantiles[share])))]), "Mean and quantiles"));
}

function showGroups() {
  const groups = make("div", { className: "side-by-side" });
  for (const [column, label] of [["task", "Task"], ["origin", "Origin"]]) {
    const rows = summary[`by_${column}`].map(([name, group]) => [text(filterButton(column, name, shortName(name))),
      number(count(group.pairs)), number(percent(group.key_token_ratio), group.key_token_ratio),
      number(decimals(group.similarity)), number(count(group.problems))]);
    if (!rows.length) continue;
    const hidden = summary[`num_${column}s`] - rows.length;
    groups.append(make("div", {}, make("h3", {}, `By ${column}`),
      table([label, "Pairs", `Key ${unit}`, "Similarity", "Problems"], rows, `By ${column}`),
      hidden > 0 ? make("p", { className: "dim" }, `${count(hidden)} more with fewer pairs.`) : null));
  }
  byId("tables").append(groups);
}

function showFrequent() {
  const frequent = make("div", { className: "side-by-side" });
  for (const [side, label] of [["chosen", "right"], ["rejected", "wrong"]]) {
    if (!summary.key_tokens[side].length) continue;
    const name = `Most frequent key ${unit}, ${label} chain`;
    frequent.append(make("div", {}, make("h3", {}, name), table([unit[0].toUpperCase() + oneOf.slice(1), "Times"],
      summary.key_tokens[side].map(([piece, num]) => [text(bdi(showSpace(piece))), number(count(num))]), name)));
  }
  byId("tables").append(frequent);
}

function filterButton(column, value, label) {
  return make("button", { type: "button", click: () => {
    byId("filters").reset();
    resetFilters();
    byId(column).value = value;
    readFilters();
    location.hash = "#pairs";
  } }, label);
}

// Plots, made of boxes. Sizes and positions are shares of an axis; the style sheet turns them into lengths.

function histogram({ label, edges, counts, marker }) {
  const low = edges[0], high = edges[edges.length - 1];
  const along = value => (value - low) / (high - low);
  const most = Math.max(...counts);
  const step = wholeStep(most);
  const top = step * Math.max(1, Math.ceil(most / step));
  const heights = [];
  for (let height = 0; height <= top; height += step) heights.push(height);
  const area = make("div", { className: "area" }, ...heights.map(height => at(height / top, make("hr"))),
    make("div", { className: "bins" }, ...counts.map((num, bin) =>
      make("div", { title: `${range(edges, bin)}: ${count(num)} pairs` }, num ? bar(num / top) : null))));
  if (marker) {
    const [place, name] = marker;
    const side = along(place) < 0.5 ? "after" : "before";
    area.append(at(along(place), make("div", { className: "marker" }, make("span", { className: side }, name))));
  }
  if (!most) area.append(make("p", {}, "No pair could be read."));
  const plot = make("div", { className: "histogram", role: "img", "aria-label": described(edges, counts, marker) },
    make("span", { className: "unit" }, "pairs"),
    make("div", { className: "heights" }, ...heights.map(height => make("span", {}, count(height)))), area,
    make("div", { className: "shares" }, ...shareTicks(low, high).map(share =>
      at(along(share), make("span", {}, percent(share, 0))))));
  return make("figure", {}, plot, make("figcaption", {}, label));
}

function taskBars(tasks) {
  const longest = Math.max(MIN_BAR_AXIS, ...tasks.map(([, ratio]) => ratio));
  const lines = tasks.map(([name, ratio]) => make("li", { title: visible(name) }, shortName(name), bar(ratio / longest),
    make("span", { className: "number" }, percent(ratio))));
  const isPart = tasks.length < summary.num_tasks;
  const label = `key ${unit} by task${isPart ? `, the ${tasks.length} with most pairs` : ""}`;
  return make("figure", {}, make("ul", { className: "task-bars" }, ...lines), make("figcaption", {}, label));
}

// Text description of a histogram, for screen readers.
function described(edges, counts, marker) {
  const most = Math.max(...counts);
  if (!most) return "Histogram without pairs.";
  const total = counts.reduce((sum, num) => sum + num);
  const bins = counts.map((_, bin) => bin).filter(bin => counts[bin]);
  return `Histogram of ${count(total)} pairs between ${shortPercent(edges[bins[0]])} and ` +
    `${shortPercent(edges[bins[bins.length - 1] + 1])}, the most (${count(most)}) from ` +
    `${range(edges, counts.indexOf(most))}.` + (marker ? ` Marked: ${marker[1]}.` : "");
}

function range(edges, bin) { return `${shortPercent(edges[bin])} to ${shortPercent(edges[bin + 1])}`; }
function shortPercent(share) { return `${Number((100 * share).toFixed(2))}%`; }

function bar(length) {
  const element = make("div", { className: "bar" });
  element.style.setProperty("--length", length);
  return element;
}

function at(place, element) {
  element.style.setProperty("--place", place);
  return element;
}

// The smallest of 1, 2, 5, 10, 20 … whose fourfold is at least the number.
function wholeStep(number) {
  for (let power = 1; ; power *= 10) {
    for (const step of [power, 2 * power, 5 * power]) if (4 * step >= number) return step;
  }
}

function shareTicks(low, high) {
  const [first, last] = [low, high].map(share => Math.round(100 * share));
  const step = last - first <= 20 ? 5 : last - first <= 50 ? 10 : 20;
  const ticks = [];
  for (let tick = Math.ceil(first / step) * step; tick <= last; tick += step) ticks.push(tick / 100);
  return ticks;
}
