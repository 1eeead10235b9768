// The live page: server-sent events by fetch (so that the key goes in a header), drawn as text nodes alone.
"use strict";

const $ = (id) => document.getElementById(id);
const trees = new Map(); // id of the outermost task -> {data, at, box}
const refusals = [];
const curves = new Map();
const opened = new Map(); // id of a task -> whether a person has opened or closed its box
let key = "";
let dirty = new Set();

function el(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Marks that turn the direction of text are written out: a name could look like another one.
const TURNS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
function text(value) {
  const made = document.createElement("bdi");
  made.textContent = value.replace(TURNS, (mark) => `[U+${mark.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
  return made;
}

const count = (value) => Math.round(value).toLocaleString("en");
const usd = (value) => "$" + value.toFixed(value !== 0 && value < 0.01 ? 6 : 4);
// Dollars in as many digits as their cap needs.
const amount = (unit, value, whole) => (unit === "usd" ? "$" + value.toFixed(whole < 0.1 ? 5 : whole < 10 ? 4 : 2) : count(value));

function cap(unit, task) {
  const whole = task.caps[unit], spent = task.spent[unit], held = task.held[unit];
  const bar = el("div", "bar", el("i"), el("i"));
  const part = (value) => Math.min(100, whole > 0 ? (100 * value) / whole : 0) + "%";
  bar.children[0].style.width = part(spent);
  bar.children[1].style.width = part(held);
  const left = Math.max(0, whole - spent - held);
  const words = el("span", "amount");
  const said = (value) => amount(unit, value, whole);
  words.append(el("b", "", said(spent)), ` spent, ${said(held)} held, `, el("b", "", said(left)), ` left of ${said(whole)}`);
  return el("div", "cap", unit === "usd" ? "dollars" : unit, bar, words);
}

function clock(task, at) {
  const made = el("span", "clock");
  const [ends, state] = [task.ends_in, task.state];
  if (state === "closed" || ends === null) {
    made.textContent = state === "closed" ? (task.error ? `ended: ${task.error}` : "done") : state;
  } else {
    made.dataset.ends = String(at + 1000 * ends);
  }
  return made;
}

function used(call) {
  const limit = call.thinking.length ? call.thinking[call.thinking.length - 1] : null;
  const thinking = el("span", "num");
  if (limit === null) return [thinking, el("span", "num")];
  const granted = call.thinking.map(count).join(" → ");
  thinking.append(call.thought === undefined ? `think ≤ ${granted}` : `thought ${count(call.thought)} of ${granted}`);
  const solution = el("span", "num", call.wrote === undefined ? `write ≤ ${count(call.solution)}` : `wrote ${count(call.wrote)} of ${count(call.solution)}`);
  for (const [box, done, of] of [[thinking, call.thought, limit], [solution, call.wrote, call.solution]]) {
    if (done === undefined || !of) continue;
    const bar = el("div", "bar", el("i"));
    bar.children[0].style.width = Math.min(100, (100 * done) / of) + "%";
    box.append(bar);
  }
  return [thinking, solution];
}

const STATES = { thinking: "running", solution: "answering", asked: "asked" };

function row(call) {
  const who = el("span", "who", text(call.label || call.kind));
  if (call.last) who.append(el("span", "quiet", " final answer"));
  const judged = call.correct === undefined ? "" : call.correct ? ", right" : ", wrong";
  const state = el("span", `state-${call.state}`, (STATES[call.state] || call.state) + judged);
  const why = call.why ? el("span", "why", text(call.why)) : null;
  return el("div", "call", el("span", "no", "#" + call.n), who, state, ...used(call), why);
}

function box(task, at, depth) {
  const made = el("details", "task " + task.state);
  made.dataset.id = task.id;
  made.open = opened.has(task.id) ? opened.get(task.id) : depth > 0 || trees.size <= 8;
  const caps = el("div", "caps", ...["tokens", "usd"].filter((unit) => unit in task.caps).map((unit) => cap(unit, task)));
  const head = el("summary", "", el("span", "name", text(task.name)), clock(task, at), caps);
  head.addEventListener("click", () => { opened.set(task.id, !made.open); if (made.open === false) fill(made, task, at, depth); });
  made.append(head);
  if (made.open) fill(made, task, at, depth);
  return made;
}

function fill(made, task, at, depth) {
  if (made.children.length > 1) return;
  const calls = el("div", "calls", ...task.calls.slice().reverse().map(row));
  if (task.hidden) calls.append(el("p", "quiet", `and ${count(task.hidden)} earlier calls`));
  made.append(calls, ...task.children.map((child) => box(child, at, depth + 1)));
}

function draw() {
  const place = $("tasks");
  for (const id of dirty) {
    const tree = trees.get(id);
    const old = tree ? tree.box : document.getElementById("tree-" + id);
    if (!tree) { if (old) old.remove(); continue; }
    const focused = old && old.contains(document.activeElement) ? document.activeElement.closest("details").dataset.id : null;
    const made = box(tree.data, tree.at, 0);
    made.id = "tree-" + id;
    if (old) old.replaceWith(made); else place.prepend(made);
    tree.box = made;
    if (focused !== null) {
      const again = focused === made.dataset.id ? made : made.querySelector(`[data-id="${focused}"]`);
      (again || made).querySelector("summary").focus({ preventScroll: true });
    }
  }
  dirty = new Set();
  $("empty").hidden = trees.size > 0;
}

function tick() {
  for (const made of document.querySelectorAll("[data-ends]")) {
    const left = (Number(made.dataset.ends) - performance.now()) / 1000;
    made.textContent = left > 0 ? left.toFixed(left < 60 ? 1 : 0) + " s left" : "time is up";
    made.classList.toggle("bad", left <= 0);
  }
}

function drawRefusals() {
  $("refusals").replaceChildren(...refusals.slice().reverse().map((one) => {
    const name = text(one.call ? `${one.task} #${one.call}` : one.task);
    return el("li", "", el("span", "bad", "refused "), name, ": ", text(one.reason));
  }));
}

function drawSpending(spending) {
  if (!spending.length) return;
  $("spend").replaceChildren(...spending.slice(0, 20).map((one) => {
    const priced = one.usd.some((value) => value > 0);
    const hours = priced ? one.usd : one.tokens;
    const sum = hours.reduce((a, b) => a + b, 0), most = Math.max(...hours, 1e-12);
    const picture = svg("svg", { viewBox: "0 0 240 32", role: "img", "aria-label": "by hour" });
    hours.forEach((value, at) => {
      const height = value > 0 ? Math.max(2, (28 * value) / most) : 1;
      picture.append(svg("rect", { class: "column", x: at * 10 + 1, y: 30 - height, width: 8, height, opacity: value > 0 ? 1 : 0.2 }));
    });
    const name = one.owner.startsWith("key/") ? one.owner.split("/")[1] : one.owner;
    return el("div", "spent-by", el("span", "", text(name)), el("b", "", priced ? usd(sum) : count(sum) + " tokens"), picture);
  }));
}

function drawCurves() {
  $("curves").replaceChildren(...[...curves.values()].slice(-12).map((one) => {
    const most = Math.max(1, ...one.expected.map((p) => p[0]), ...one.judged.map((p) => p[0]));
    const x = (limit) => 16 + (216 * limit) / most, y = (chance) => 66 - 60 * chance;
    const picture = svg("svg", { viewBox: "0 0 240 82", role: "img", "aria-label": "success by thinking tokens" });
    picture.append(svg("line", { class: "axis", x1: 14, x2: 234, y1: 66, y2: 66 }), svg("line", { class: "axis", x1: 14, x2: 234, y1: 6, y2: 6 }));
    picture.append(svg("polyline", { class: "line", points: one.expected.map(([t, p]) => `${x(t)},${y(p)}`).join(" ") }));
    for (const [t, p] of one.expected) picture.append(svg("circle", { class: "column", cx: x(t), cy: y(p), r: 1.8 }));
    for (const [t, right, all] of one.judged) picture.append(svg("circle", { class: "dot", cx: x(t), cy: y(right / all), r: Math.min(6, 2 + Math.sqrt(all)) }));
    for (const [words, x, y, side] of [["1", 8, 9, "end"], ["0", 8, 69, "end"], ["0", 16, 78, "middle"], [count(most), 234, 78, "end"]]) {
      const label = svg("text", { x, y, "text-anchor": side });
      label.textContent = words;
      picture.append(label);
    }
    return el("div", "curve", text(`${one.kind}, ${one.model}`), picture);
  }));
}

function take(message) {
  const at = performance.now();
  for (const id of message.gone) { trees.delete(id); opened.delete(id); dirty.add(id); }
  for (const data of message.trees) {
    const known = trees.get(data.id);
    trees.set(data.id, { data, at, box: known ? known.box : null });
    dirty.add(data.id);
  }
  if (message.refusals.length) {
    refusals.push(...message.refusals);
    refusals.splice(0, refusals.length - 50);
    drawRefusals();
  }
  for (const one of message.curves) {
    const name = JSON.stringify([one.owner, one.model, one.kind]);
    curves.delete(name);
    curves.set(name, one);
    if (curves.size > 100) curves.delete(curves.keys().next().value);
  }
  if (message.curves.length) drawCurves();
  drawSpending(message.spending);
  $("summary").textContent = `${count(message.open)} open, ${count(trees.size - message.open)} finished`;
  document.body.dataset.version = message.version;
  draw();
  tick();
}

function say(state, words) {
  $("link").className = state;
  $("link").textContent = words;
}

function forget() {
  for (const id of trees.keys()) dirty.add(id);
  trees.clear();
  curves.clear();
  refusals.length = 0;
  draw();
}

async function read() {
  const headers = key ? { Authorization: "Bearer " + key } : {};
  const response = await fetch("/ui/events", { headers, cache: "no-store", credentials: "omit" });
  if (response.status === 401) {
    $("denied").textContent = key ? "This key is not known here, or was revoked." : "";
    $("ask").hidden = false;
    $("main").hidden = true;
    $("key").focus();
    say("", "waiting for a key");
    return false;
  }
  if (!response.ok) throw new Error(`the server says ${response.status}`);
  $("ask").hidden = true;
  $("main").hidden = false;
  forget();
  say("on", "live");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return true;
    const messages = (rest + value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) if (message.startsWith("data: ")) take(JSON.parse(message.slice(6)));
  }
}

async function follow() {
  for (;;) {
    try {
      if (!(await read())) return;
    } catch (error) { /* the server is away: what was shown stays */ }
    say("off", "connection lost, trying again");
    await new Promise((done) => setTimeout(done, 2000));
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  follow();
});
const place = document.body.dataset.place;
$("example").textContent = place === "scheduler"
  ? `async with scheduler.task(Caps(tokens=600, seconds=60)) as task:
    await task.generate("hello")`
  : `curl ${location.origin}/v1/chat/completions -H "Content-Type: application/json" \\
${place === "gateway-with-keys" ? '  -H "Authorization: Bearer $KEY" \\\n' : ""}  -H "X-Elastic-Task: first" -H "X-Elastic-Caps: tokens=600, seconds=60" \\
  -d '{"messages": [{"role": "user", "content": "hello"}]}'`;
setInterval(tick, 200);
if (place === "gateway-with-keys") {
  $("ask").hidden = false;
  $("key").focus();
  say("", "waiting for a key");
} else {
  follow();
}
