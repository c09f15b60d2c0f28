"use strict";
// The console: views that show what the host tells. Foreign text goes into text nodes only.
const ROOT = "/admin/console/api/";

/** An element. Members of `properties` are properties, `class` and names with a dash are attributes, and functions are listeners. */
function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "class" || name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

async function read(path, query) {
  const answer = await fetch(ROOT + path + (query ? "?" + new URLSearchParams(query) : ""), { cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.problem);
  return body;
}

async function act(path, body) {
  const answer = await fetch(ROOT + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.problem);
  return told;
}

let silence;
/** A line for the person, for some seconds. */
function tell(text) {
  document.getElementById("told").textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { document.getElementById("told").textContent = ""; }, 8000);
}

/** Listener of a button: the button rests until the work is done. */
const does = (work) => async (event) => {
  event.preventDefault();
  const button = event.submitter ?? event.currentTarget;
  button.disabled = true;
  try {
    const text = await work();
    if (text) tell(text);
    await refresh();
  } catch (error) {
    tell(error.message);
  } finally {
    button.disabled = false;
  }
};

const button = (text, key, work, kind) => h("button", { type: "button", class: kind, "data-key": key, click: does(work) }, text);

function duration(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** A moment as the reader writes it; the whole moment is its title. */
function moment(text) {
  if (!text) return "–";
  const at = new Date(text);
  const isToday = at.toDateString() === new Date().toDateString();
  const shown = isToday ? at.toLocaleTimeString() : at.toLocaleString();
  return h("time", { dateTime: text, title: text }, shown);
}

const status = (word, text) => h("span", { class: `tag ${word}` }, text ?? word);
const pairs = (...rows) => h("dl", null, rows.filter(([, value]) => value !== null && value !== undefined && value !== false && value !== "").map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
const pretty = (text) => { try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; } };

/** A table. A column is a title, or a title and a class. On a narrow screen each cell says its title. */
function table(caption, columns, rows) {
  const titles = columns.map((column) => [column].flat());
  return h("div", { class: "table", role: "region", "aria-label": caption, tabIndex: 0 }, h("table", null,
    h("thead", null, h("tr", null, titles.map(([title, kind]) => h("th", { scope: "col", class: kind }, title)))),
    h("tbody", null, rows.map((cells) => h("tr", null, cells.map((cell, at) => h("td", { class: titles[at][1], "data-title": titles[at][0] }, cell)))))));
}

/** The state of details elements and of fields outlives a new drawing: they have keys. */
function redraw(place, elements) {
  const focused = document.activeElement?.dataset?.key;
  const open = new Set([...place.querySelectorAll("details[open]")].map((details) => details.dataset.key));
  place.replaceChildren(...[elements].flat(Infinity).filter(Boolean));
  for (const details of place.querySelectorAll("details")) details.open ||= open.has(details.dataset.key);
  if (focused && !document.activeElement?.dataset?.key) {
    [...place.querySelectorAll("[data-key]")].find((element) => element.dataset.key === focused)?.focus({ preventScroll: true });
  }
}

/** Views by their names: `title`, and `open(place, rest)`, which draws once and returns what draws again. */
const views = new Map();
/** Puts the views of the handler's own script before the others. */
function addViews(more) {
  const others = [...views];
  views.clear();
  for (const [name, view] of [...more, ...others]) views.set(name, view);
}
let app = {};
let shown = { hash: null, draw: async () => {} };

/** A part of a view that is drawn again when what it shows has changed. */
function part(place, load, draw) {
  const box = h("div");
  place.append(box);
  let before;
  return async () => {
    const loaded = await load();
    const text = JSON.stringify(loaded);
    if (text === before) return;
    before = text;
    redraw(box, draw(loaded));
  };
}

// ---- Functions and timers

views.set("functions", {
  title: "Functions",
  open(place, [name]) {
    place.append(h("h1", null, name ? `Run ${name}` : "Functions"));
    return name ? openFunction(place, name) : part(place, () => read("functions"), ({ functions, idle }) => [
      functions.length === 0 && h("p", { class: "empty" }, "No function runs. Add a folder with a function.json."),
      functions.length > 0 && table("Functions", ["Function", "Trigger", ["Completed", "number"], ["Failed", "number"], ["Running", "number"], "Last run", "Next run", "Action"], functions.map((f) => [
        h("strong", null, f.name), trigger(f), f.completed, f.failed > 0 ? status("failed", String(f.failed)) : "0", f.running,
        f.trigger.kind === "timer" ? moment(f.trigger.last) : "–", f.trigger.kind === "timer" ? moment(f.trigger.next[0]) : "–",
        h("a", { href: `#functions/${f.name}`, "aria-label": `Run ${f.name}` }, "Run…"),
      ])),
      idle.length > 0 && h("h2", null, "Not running"),
      idle.length > 0 && table("Functions that do not run", ["Function", "Reason"], idle.map((f) => [f.name, f.reason])),
    ]);
  },
});

function trigger({ trigger: t, sendsTo }) {
  const to = sendsTo.length > 0 ? ` → ${[...new Set(sendsTo)].join(", ")}` : "";
  if (t.kind === "http") return `${t.methods ? t.methods.join(", ") : "any method"} ${t.path}${to}`;
  if (t.kind === "queue") return `queue ${t.queue}${to}`;
  return `timer${to}`;
}

async function openFunction(place, name) {
  const { functions } = await read("functions");
  const found = functions.find((f) => f.name === name);
  if (!found) { place.append(h("p", null, "There is no such function.")); return async () => {}; }
  const t = found.trigger;
  place.append(h("p", { class: "soft" }, trigger(found)));
  const answer = h("div", { "aria-live": "polite" });
  if (t.kind === "http") {
    const methods = t.methods ?? ["GET", "POST", "PUT", "DELETE"];
    const method = h("select", { "data-key": "method" }, methods.map((m) => h("option", null, m)));
    const path = h("input", { value: t.path, size: 40, "data-key": "path" });
    const body = h("textarea", { value: found.sample ?? "", spellcheck: false, "data-key": "body" });
    place.append(h("form", { submit: does(async () => {
      const sends = !["GET", "HEAD"].includes(method.value) && body.value !== "";
      const target = new URL(path.value, location.href);
      if (target.origin !== location.origin) throw new Error("Give a path of this host.");
      const got = await fetch(target, { method: method.value, cache: "no-store", headers: { Accept: "application/json", ...(sends && { "Content-Type": "application/json" }) }, body: sends ? body.value : undefined });
      const text = await got.text();
      answer.replaceChildren(h("h2", null, `Answer ${got.status} ${got.statusText}`),
        pairs(...["location", "retry-after", "content-type"].map((header) => [header, got.headers.get(header)])), h("pre", { tabIndex: 0 }, pretty(text) || "(no body)"));
    }) }, h("label", null, "Method", method), h("label", null, "Path", path), h("label", { class: "wide" }, "Body", body), h("button", { type: "submit" }, "Send")));
  } else {
    const input = h("textarea", { value: found.sample ?? "", spellcheck: false, "data-key": "input" });
    place.append(h("form", { submit: does(async () => {
      const { invocation } = await act(`functions/${name}/run`, { input: t.kind === "queue" ? input.value : "" });
      answer.replaceChildren(h("p", null, "Invocation ", h("span", { class: "id" }, invocation), " has begun."));
    }) }, t.kind === "queue" && h("label", { class: "wide" }, "Message", input), h("button", { type: "submit" }, "Run now")));
  }
  place.append(answer);
  const timer = t.kind === "timer" ? part(place, async () => (await read("functions")).functions.find((f) => f.name === name).trigger, (now) => [
    h("h2", null, "Schedule"), pairs(["Last run", moment(now.last)], ["Next runs", now.next.flatMap((run, at) => [at > 0 ? ", then " : "", moment(run)])]),
  ]) : async () => {};
  place.append(h("h2", null, "Its latest invocations"));
  const latest = part(place, () => invocations(name), (list) => invocationTable(list.slice(0, 20)));
  return async () => { await timer(); await latest(); };
}

// ---- Queues and messages

const STATES = ["active", "locked", "scheduled", "dead"];
const STATE_NAMES = { active: "waiting", locked: "being delivered", scheduled: "scheduled", dead: "dead-lettered" };

views.set("queues", {
  title: "Queues",
  open(place, [queue, state]) {
    place.append(h("h1", null, queue ? `Messages of ${queue}` : "Queues"));
    if (!queue) {
      return part(place, () => read("queues"), ({ queues, maxDeliveries }) => [
        queues.length === 0 && h("p", { class: "empty" }, "No function has a queue."),
        queues.length > 0 && table("Queues", ["Queue", ...STATES.map((s) => [STATE_NAMES[s], "number"])], queues.map((q) => [
          h("a", { href: `#queues/${encodeURIComponent(q.name)}` }, q.name),
          ...STATES.map((s) => q[s] === 0 ? "0" : h("a", { class: s, href: `#queues/${encodeURIComponent(q.name)}/${s}`, "aria-label": `${q[s]} ${STATE_NAMES[s]} in ${q.name}` }, String(q[s]))),
        ])),
        h("p", { class: "soft" }, `A message is dead-lettered after ${maxDeliveries} deliveries.`),
      ]);
    }
    const filter = h("select", { "data-key": "state", change: () => { location.hash = `#queues/${encodeURIComponent(queue)}/${filter.value}`; } },
      ["", ...STATES].map((s) => h("option", { value: s, selected: s === (state ?? "") }, s ? STATE_NAMES[s] : "not dead-lettered")));
    place.append(h("p", null, h("a", { href: "#queues" }, "All queues")), h("div", { class: "bar" }, h("label", null, "Which", filter)));
    return part(place, () => read("messages", { queue, state: state ?? "" }), ({ messages }) => messageTable(messages));
  },
});

function messageTable(messages) {
  if (messages.length === 0) return h("p", { class: "empty" }, "No such message now.");
  return [table("Messages", [["Number", "number"], "State", "Sent", "Ready or locked until", ["Deliveries", "number"], "Message"], messages.map((m) => {
    const { applicationProperties: own = {}, ...properties } = m.properties;
    const why = own.DeadLetterReason ? `${own.DeadLetterReason}: ${own.DeadLetterErrorDescription ?? ""}` : null;
    return [m.number, status(m.state, STATE_NAMES[m.state]), moment(m.sentAt), m.state === "active" || m.state === "dead" ? "now" : moment(m.readyAt), m.deliveries, [
      why && h("div", { class: "failed" }, why),
      h("details", { "data-key": `message-${m.number}` }, h("summary", { "data-key": `open-${m.number}` }, `${m.size} bytes, id ${properties.messageId}`),
        h("pre", { tabIndex: 0 }, (m.isWhole ? pretty(m.text) : m.text + "\n… (the start of it)")),
        pairs(...Object.entries({ ...properties, ...own }).map(([name, value]) => [name, String(value)]))),
    ]];
  })), messages.length >= 100 && h("p", { class: "soft" }, "Only the first 100 are shown.")];
}

// ---- Invocations

const known = { startedAt: null, revision: 0, byNumber: new Map() };

async function invocations(name) {
  let told = await read("invocations", { since: known.revision });
  if (told.startedAt !== known.startedAt) {
    // Another start of the host counts from the beginning again.
    known.byNumber.clear();
    if (known.revision > 0) told = await read("invocations", { since: 0 });
    known.startedAt = told.startedAt;
  }
  const { revision, oldest, invocations: changed } = told;
  known.revision = revision;
  for (const one of changed) known.byNumber.set(one.number, one);
  for (const number of known.byNumber.keys()) if (number < oldest) known.byNumber.delete(number);
  return [...known.byNumber.values()].filter((one) => !name || one.function === name).sort((a, b) => b.number - a.number);
}

function invocationTable(list) {
  if (list.length === 0) return h("p", { class: "empty" }, known.byNumber.size === 0 ? "Nothing was invoked since the start. Run a function, or send a request." : "None of the latest 500 invocations is such a one.");
  return table("Invocations", ["Time", "Function", "Outcome", ["Duration", "number"], ["Delivery", "number"], "What it told"], list.map((one) => [
    moment(one.at),
    [one.function, one.byHand ? h("span", { class: "soft" }, " by hand") : null],
    status(one.outcome, one.status ? `${one.outcome} ${one.status}` : one.outcome),
    one.milliseconds === null ? "…" : duration(one.milliseconds),
    one.deliveries ?? "–",
    [
      one.reason && h("div", { class: "failed" }, one.reason),
      Object.entries(one.sent).map(([queue, count]) => h("div", null, `${count} ${count === 1 ? "message" : "messages"} → ${queue}`)),
      one.lines.length > 0 && h("details", { "data-key": `lines-${one.number}` }, h("summary", { "data-key": `summary-${one.number}` }, one.lines.length + one.linesLeftOut === 1 ? "1 log line" : `${one.lines.length + one.linesLeftOut} log lines`),
        h("pre", { tabIndex: 0 }, one.lines.join("\n") + (one.linesLeftOut > 0 ? `\n… and ${one.linesLeftOut} more` : ""))),
      h("div", { class: "id soft" }, one.id),
    ],
  ]));
}

views.set("invocations", {
  title: "Invocations",
  open(place) {
    place.append(h("h1", null, "Invocations"));
    const filter = h("select", { "data-key": "function", change: () => refresh() }, h("option", { value: "" }, "all functions"));
    const outcome = h("select", { "data-key": "outcome", change: () => refresh() }, ["", "running", "failed", "completed"].map((word) => h("option", { value: word }, word || "any outcome")));
    place.append(h("div", { class: "bar" }, h("label", null, "Function", filter), h("label", null, "Outcome", outcome)));
    const list = part(place, async () => (await invocations(filter.value)).filter((one) => !outcome.value || one.outcome === outcome.value), (all) => [
      invocationTable(all.slice(0, 200)), all.length > 200 && h("p", { class: "soft" }, `Only the latest 200 of ${all.length} are shown: choose a function or an outcome.`)]);
    let filled = false;
    return async () => {
      if (!filled) {
        filter.append(...(await read("functions")).functions.map((f) => h("option", null, f.name)));
        filled = true;
      }
      await list();
    };
  },
});

// ---- The page

function route() {
  const [name, ...rest] = location.hash.slice(1).split("/").map((segment) => { try { return decodeURIComponent(segment); } catch { return segment; } });
  return views.has(name) && isThere(views.get(name)) ? [name, rest] : [[...views.entries()].find(([, view]) => isThere(view))[0], []];
}

const isThere = (view) => !view.panel || app.panel;

async function show() {
  const hash = location.hash;
  const [name, rest] = route();
  const place = document.getElementById("content");
  const isFirst = shown.hash === null;
  const fresh = { hash, draw: async () => {} };
  shown = fresh;
  // What a view adds late goes nowhere once another view is shown.
  const inner = h("div");
  place.replaceChildren(inner);
  document.title = `${views.get(name).title} – ${app.name ?? "Console"}`;
  menu(name);
  try {
    fresh.draw = await views.get(name).open(inner, rest) ?? fresh.draw;
  } catch (error) {
    inner.append(h("p", { class: "failed" }, error.message));
  }
  if (!isFirst) place.focus({ preventScroll: true });
  await refresh();
}

function menu(current) {
  const list = [...views].filter(([, view]) => isThere(view));
  document.getElementById("views").replaceChildren(...list.map(([name, view]) => h("li", null, h("a", { href: `#${name}`, "aria-current": name === current ? "page" : null }, view.title))));
}

let busy = null;
/** Draws what has changed. One drawing at a time; changes meanwhile make one more. */
function refresh() {
  if (busy) { busy.again = true; return busy.done; }
  const turn = { again: false };
  busy = turn;
  turn.done = (async () => {
    try {
      do {
        turn.again = false;
        const had = app.panel;
        app = await read("app");
        document.getElementById("name").textContent = app.name;
        const state = document.getElementById("state");
        state.className = `tag ${app.state}`;
        state.textContent = app.state === "Running" ? "handler is ready" : app.state === "Starting" ? "handler is starting" : "handler has ended";
        link("");
        if (had !== app.panel) { queueMicrotask(show); return; }
        await shown.draw();
      } while (turn.again);
    } catch (error) {
      link(error instanceof TypeError ? "the host does not answer" : error.message);
    } finally {
      busy = null;
    }
  })();
  return turn.done;
}

function link(problem) {
  const text = problem || (document.hidden ? "" : follows ? "live" : `not live: too many pages are open; read again every ${AGAIN / 1000} s`);
  const place = document.getElementById("link");
  if (place.textContent !== text) place.textContent = text;
}

const AGAIN = 10_000;
let events = null;
let follows = true;
let later;
/** A hidden page holds no connection: a browser has six for this host, over all its pages. */
function follow() {
  events?.close();
  events = null;
  clearTimeout(later);
  if (document.hidden) return;
  const source = new EventSource(ROOT + "events");
  events = source;
  source.onmessage = () => { follows = true; refresh(); };
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) { link("the host does not answer"); return; }
    // The host has no place for this page. The browser does not try again.
    follows = false;
    refresh();
    later = setTimeout(follow, AGAIN);
  };
}

// The handler's own script comes next, and adds its views before this runs.
document.addEventListener("DOMContentLoaded", async () => {
  addEventListener("hashchange", show);
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("content").focus(); });
  document.addEventListener("visibilitychange", () => { follow(); if (!document.hidden) refresh(); });
  // A stream that the browser keeps holds up the next page.
  addEventListener("pagehide", () => events?.close());
  try { app = await read("app"); } catch { link("the host does not answer"); }
  await show();
  follow();
});
