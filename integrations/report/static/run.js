"use strict";
// A recorded run. Whatever the log says is put on the page as text, never as markup.
const { title, run, check } = JSON.parse(document.getElementById("data").textContent);
const FIRST = 200; // calls of a task that are shown at once
const NARROW = matchMedia("(max-width: 860px)"); // one column: decisions stand below their call
const SVG = "http://www.w3.org/2000/svg";

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawn(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const FORMS = {
  usd: (n) => `$${n.toFixed(6)}`,
  tokens: (n) => `${Math.round(n).toLocaleString("en")} tokens`,
  seconds: (n) => `${n.toFixed(2)} s`,
};
const amount = (unit, n) => (FORMS[unit] || String)(n);
const amounts = (found) => Object.entries(found).filter(([, n]) => n).map(([u, n]) => amount(u, n)).join(", ");

const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

function* walk(task, path = []) {
  yield [task, path];
  for (const one of task.tasks) yield* walk(one, [...path, one.name]);
}

function callsOf(task) {
  const found = [];
  for (const [one, path] of walk(task)) for (const call of one.calls) found.push({ call, path });
  return found.sort((a, b) => a.call.begun - b.call.begun);
}

function end(task) {
  let last = task.closed ?? 0;
  for (const { call } of callsOf(task)) last = Math.max(last, call.ended ?? call.begun);
  return last;
}

function capRow(unit, cap, spent) {
  const bar = make("div", "bar");
  const svg = drawn("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", height: 8, "aria-hidden": "true" });
  svg.append(drawn("rect", { class: "fill", width: cap ? Math.min(100, (100 * spent) / cap) : 0, height: 8 }));
  bar.append(svg);
  const names = { usd: "dollars", tokens: "tokens", seconds: "seconds" };
  const left = unit === "seconds" ? "" : `, ${amount(unit, Math.max(0, cap - spent))} left`;
  return [make("span", "", names[unit] || unit), bar, make("span", "", `${amount(unit, spent)} of ${amount(unit, cap)}${left}`)];
}

function burnDown(task, calls, until) {
  const unit = ["usd", "tokens"].find((name) => task.caps[name]);
  if (!unit || !until) return null;
  const cap = task.caps[unit];
  const steps = calls.filter(({ call }) => call.ended !== null && call.charged[unit])
    .map(({ call }) => [call.ended, call.charged[unit]]).sort((a, b) => a[0] - b[0]);
  let left = cap, path = "M0 4";
  const y = (n) => 4 + 68 * (1 - n / cap);
  for (const [at, spent] of steps) {
    path += `H${((1000 * at) / until).toFixed(1)}`;
    left -= spent;
    path += `V${y(left).toFixed(1)}`;
  }
  path += "H1000";
  const svg = drawn("svg", { class: "burn", viewBox: "0 0 1000 76", preserveAspectRatio: "none", role: "img" });
  const label = drawn("title", {});
  label.textContent = `What was left of ${amount(unit, cap)} over ${until.toFixed(2)} s`;
  svg.append(label, drawn("path", { class: "area", d: `${path}V72H0Z` }), drawn("path", { class: "line", d: path }),
    drawn("path", { class: "cap", d: "M0 72H1000" }));
  return svg;
}

function limit(call, segment) {
  const found = call.decisions.filter((one) => one.granted).map((one) => one.granted[segment]);
  const last = found[found.length - 1], most = Math.max(...found);
  return most > last ? `${most} → ${last}` : last;
}

let chosen = null;

function choose(button, call, path) {
  if (chosen) chosen.setAttribute("aria-pressed", "false");
  chosen = button;
  button.setAttribute("aria-pressed", "true");
  const place = document.getElementById("decision");
  place.replaceChildren(make("h2", "", "Decisions of a call"), make("h3", "", [...path, `${call.number} ${call.label || call.kind}`].join(" / ")));
  const used = call.used ? `thought ${call.used.thinking}, wrote ${call.used.solution} tokens` : "no usage";
  const ending = call.thinking_end ? `, thinking ended: ${call.thinking_end}` : "";
  place.append(make("p", "quiet", `${call.outcome}; ${used}${ending}`));
  const list = make("ol");
  for (const one of call.decisions) {
    const item = make("li");
    const what = one.granted ? `${one.granted.thinking} to think, ${one.granted.solution} to write` : "";
    item.append(make("strong", "", `${one.at.toFixed(2)} s  ${one.what.replace("_", " ")}`), make("p", "", what), make("p", "quiet", one.reason));
    const facts = make("dl");
    const rows = [["held", amounts(one.hold)], ["left before", amounts(one.left)], ["kept for the final answer", amounts(one.reserved)],
      ["success by its curve", one.success === null ? "" : one.success.toFixed(2)]];
    for (const [name, value] of rows) if (value) facts.append(make("dt", "", name), make("dd", "", value));
    item.append(facts);
    list.append(item);
  }
  place.append(list);
  if (NARROW.matches) button.after(place);
  else document.querySelector("aside").prepend(place);
}

function row({ call, path }, until) {
  const button = make("button", "call");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const who = make("span", "who");
  if (path.length) who.append(make("small", "", `${path.join(" / ")} / `));
  who.append(`${call.number} ${call.label || call.kind}`);
  const svg = drawn("svg", { viewBox: "0 0 1000 12", preserveAspectRatio: "none", "aria-hidden": "true" });
  const from = until ? (1000 * call.begun) / until : 0, to = until ? (1000 * (call.ended ?? until)) / until : 0;
  const refused = call.outcome === "refused" || call.outcome === "stopped";
  svg.append(drawn("rect", { class: "track", y: 5, width: 1000, height: 2 }),
    drawn("rect", { class: refused ? "span refused" : "span", x: from.toFixed(1), y: 1, width: Math.max(4, to - from).toFixed(1), height: 10, rx: 3 }));
  const think = call.used ? `${call.used.thinking} of ${limit(call, "thinking")}` : call.outcome;
  const cost = call.charged.usd ? amount("usd", call.charged.usd) : call.charged.tokens ? amount("tokens", call.charged.tokens) : "";
  button.append(who, svg, make("span", refused ? "num bad" : "num", think), make("span", "num cost", cost));
  button.addEventListener("click", () => choose(button, call, path));
  return button;
}

function card(task) {
  const node = make("section", "task");
  node.append(make("h3", "", task.name));
  if (task.refusal !== null) {
    node.append(make("p", "bad", `refused: ${task.refusal}`));
    return node;
  }
  const calls = callsOf(task), until = end(task);
  const caps = make("div", "caps");
  for (const [unit, cap] of Object.entries(task.caps)) caps.append(...capRow(unit, cap, unit === "seconds" ? until : task.spent[unit] || 0));
  node.append(caps);
  const burn = burnDown(task, calls, until);
  if (burn) node.append(burn);
  const rows = make("div"), head = make("div", "call head");
  for (const [name, className] of [["call", "who"], ["over time", ""], ["thought, of", "num"], ["cost", "num cost"]]) head.append(make("span", className, name));
  rows.append(head);
  const show = (from, to) => rows.append(...calls.slice(from, to).map((one) => row(one, until)));
  show(0, FIRST);
  node.append(rows);
  if (calls.length > FIRST) {
    const more = make("button", "more", `show all ${calls.length.toLocaleString("en")} calls`);
    more.type = "button";
    more.addEventListener("click", () => { show(FIRST); more.remove(); });
    node.append(more);
  }
  return node;
}

function sums(id, found) {
  const table = document.getElementById(id);
  if (!found.length) { table.parentElement.remove(); return; }
  const head = table.insertRow();
  for (const name of ["", "calls", "thought", "wrote", "cost"]) head.append(make("th", "", name));
  for (const one of [...found].sort((a, b) => b.usd - a.usd || b.tokens - a.tokens)) {
    const line = table.insertRow();
    const cost = one.usd ? `$${one.usd.toFixed(6)}` : Math.round(one.tokens).toLocaleString("en");
    for (const text of [one.name, one.calls, one.thinking, one.solution, cost])
      line.append(make("td", "", typeof text === "number" ? text.toLocaleString("en") : text));
  }
}

function replay() {
  const place = document.getElementById("check");
  if (check === null) { place.remove(); return; }
  if (check.error) { place.append(make("p", "quiet", check.error)); return; }
  const verdict = check.identical ? `${check.decisions} decisions, all identical when played again.` : "This run does not replay.";
  place.append(make("p", check.identical ? "quiet" : "bad", verdict));
  const judged = check.tasks.filter((one) => one.unit !== null);
  if (!judged.length) return;
  const table = make("table");
  const head = table.insertRow();
  for (const name of ["chance of all right", "as it was", "best", "regret"]) head.append(make("th", "", name));
  for (const one of judged) {
    const line = table.insertRow();
    const regret = one.best_chance - one.chance;
    for (const text of [one.task, one.chance.toFixed(3), one.best_chance.toFixed(3), regret.toFixed(3)]) line.append(make("td", "", text));
  }
  place.append(table);
}

document.querySelector("h1").textContent = title;
const all = run.tasks.flatMap(callsOf);
document.getElementById("totals").textContent = `${count(run.tasks.length, "task")}, ${count(all.length, "call")}`;
document.getElementById("tasks").append(...run.tasks.map(card));
sums("by_kind", run.by_kind);
sums("by_agent", run.by_agent);
replay();
