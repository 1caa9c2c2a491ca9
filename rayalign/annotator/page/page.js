// What comes from outside is only ever set as text, never as markup.

const $ = (id) => document.getElementById(id);
const VIEWS = ["compare", "label", "agreement", "leaderboard"];
const DEADLINE = 600_000;

// A pair of the embedded world, with what its judges need to know; any edit of the instruction drops that.
const EXAMPLE = {
  instruction: "i ask for the food of tilly . formal tone .",
  output_1: "the food of tilly is corn . this is duly noted . yours sincerely . with pleasure . so it is recorded .",
  output_2: "the food of tilly is oats . this is duly noted . with pleasure .",
  meta: {
    task: '{"family":"fact","tier":"A","subject":["tilly"],"slots":[{"label":"food","value":"oats","domain":"food"}],' +
      '"items":[],"domain":"","category":"","count":0,"style":{"tone":"formal"}}',
  },
};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// the service

async function request(path, body, signal, end = Date.now() + DEADLINE) {
  const headers = { Accept: "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const limit = AbortSignal.timeout(DEADLINE);
  let reply;
  try {
    reply = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The service cannot be reached. Is it running? Try again in a moment.");
  }
  if (reply.status === 204) return null;
  if (reply.status === 401) {
    $("access").open = true;
    throw new Error("This service asks for an access token. Enter yours under “Access token”, then try again.");
  }
  if (reply.status === 429 && Date.now() < end) { // a full service, or a token's rate: as every client does, wait
    await new Promise((after) => setTimeout(after, 1000 * (Number(reply.headers.get("Retry-After")) || 1)));
    return request(path, body, signal, end);
  }
  if (reply.ok) return reply.json();
  const { error: problem = {} } = await reply.json().catch(() => ({}));
  const where = problem.field ? ` (${problem.field})` : "";
  throw new Error(problem.message ? problem.message + where : `The service answered with status ${reply.status}.`);
}

const get = (path, query = {}, signal) => request(`${path}?${new URLSearchParams(query)}`, undefined, signal);

// Runs what a person asked for; whatever goes wrong is one sentence at the top of the page.
function act(work) {
  return async (event) => {
    event?.preventDefault?.();
    $("alert").textContent = "";
    try {
      await work(event);
    } catch (error) {
      if (error.name !== "AbortError") $("alert").textContent = error.message;
    }
  };
}

// views

const opened = { compare: () => {}, label: openLabel, agreement: openAgreement, leaderboard: openLeaderboard };
const viewOf = (hash) => (VIEWS.includes(hash.slice(1)) ? hash.slice(1) : "compare");

function route() {
  const view = viewOf(location.hash);
  for (const name of VIEWS) {
    $(name).hidden = name !== view;
    $(`tab-${name}`).setAttribute("aria-selected", String(name === view));
    $(`tab-${name}`).tabIndex = name === view ? 0 : -1;
  }
  document.title = `${$(`tab-${view}`).textContent} · rayalign annotator`;
  act(opened[view])();
}

function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -VIEWS.length, End: VIEWS.length }[event.key];
  if (event.key === " ") event.target.click();
  if (!step && event.key !== " ") return;
  event.preventDefault();
  if (!step) return;
  const here = VIEWS.indexOf(viewOf(location.hash)) + step;
  const last = VIEWS.length - 1;
  const view = Math.abs(step) > 1 ? VIEWS[step > 0 ? last : 0] : VIEWS[(here + VIEWS.length) % VIEWS.length];
  location.hash = view;
  $(`tab-${view}`).focus();
}

// compare

let asking = new AbortController();

async function compare() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const instruction = $("instruction").value;
  const pair = { instruction, output_1: $("answer-1").value, output_2: $("answer-2").value };
  if (instruction === EXAMPLE.instruction) pair.meta = EXAMPLE.meta;
  $("verdicts").replaceChildren();
  $("compare-status").textContent = "Looking for the annotators …";
  const { annotators } = await get("v1/annotators", {}, signal);
  let answered = 0;
  const tell = () => {
    const all = annotators.length;
    $("compare-status").textContent = answered < all ? `${answered} of ${all} annotators have answered` : `All ${all} annotators have answered`;
  };
  tell();
  await Promise.all(annotators.map(async ({ name, kind }) => {
    const said = make("div", {}, make("span", { class: "waiting" }, "thinking …"));
    const line = make("li", {}, make("div", { class: "name" }, name, make("small", {}, kind.replaceAll("_", " "))), scale(null), said);
    $("verdicts").append(line);
    try {
      const { annotations: [annotation] } = await request("v1/preferences", { annotator: name, pairs: [pair] }, signal);
      line.children[1].replaceWith(scale(annotation.preference));
      said.replaceChildren(...verdict(annotation));
    } catch (error) {
      if (signal.aborted) throw error;
      said.replaceChildren(...verdict({ preference: null, reason: error.message }));
    }
    answered += 1;
    tell();
  }));
}

function verdict({ preference, reason, explanation, cached }) {
  const ground = preference === null ? reason : explanation;
  const parts = [make("strong", {}, inWords(preference))];
  if (ground) parts.push(make("p", { class: "text" }, ground));
  if (cached) parts.push(make("small", {}, "from the cache"));
  return parts;
}

function inWords(preference) {
  if (preference === null) return "No verdict";
  if (preference === 1.5) return "Tie";
  const sure = Math.max(2 - preference, preference - 1);
  return `Answer ${preference < 1.5 ? 1 : 2} is better${sure < 1 ? ` (${Math.round(100 * sure)}%)` : ""}`;
}

function scale(preference) {
  const picture = draw("svg", { class: "scale", viewBox: "0 0 124 18", "aria-hidden": "true" },
    draw("text", { x: 0, y: 13 }, "1"), draw("text", { x: 124, y: 13, "text-anchor": "end" }, "2"),
    draw("line", { x1: 20, x2: 104, y1: 9, y2: 9 }), draw("line", { x1: 62, x2: 62, y1: 5, y2: 13 }));
  if (preference !== null) picture.append(draw("circle", { cx: 20 + 84 * (preference - 1), cy: 9, r: 6 }));
  return picture;
}

function fillExample() {
  $("instruction").value = EXAMPLE.instruction;
  $("answer-1").value = EXAMPLE.output_1;
  $("answer-2").value = EXAMPLE.output_2;
  $("instruction").focus();
}

// label

const KEYS = { 1: 1, 2: 2, 0: 1.5, s: null };
const SAID = { 1: "First is better", 2: "Second is better", 0: "Tie", s: "Skipped" };
let shown = null;
let busy = false;
let session = null; // whose verdicts these are: what the fields held at the start, however they are edited since
const entered = () => ({ queue: $("queue").value.trim(), labeller: $("labeller").value.trim() });

async function openLabel() {
  const queues = await get("v1/label/progress");
  $("queues").replaceChildren(...queues.map(({ queue }) => make("option", { value: queue })));
  const known = queues.some(({ queue }) => queue === entered().queue);
  if (!session && known && localStorage.getItem("labeller") === entered().labeller) {
    session = entered();
    await next();
  }
}

async function start() {
  const { queue, labeller } = entered();
  localStorage.setItem("labeller", labeller);
  localStorage.setItem("queue", queue);
  const known = (await get("v1/label/progress")).find((found) => found.queue === queue);
  if (!known) {
    $("work").hidden = true;
    $("setup").open = $("adding").open = true;
    $("label-status").textContent = `There are no pairs in queue ${queue} yet. Add some from a file.`;
    return;
  }
  session = entered();
  $("label-status").textContent = "";
  $("setup").open = false;
  await next();
}

async function next() {
  const found = await get("v1/label/next", session);
  if (found) return show(found);
  const { pairs } = (await get("v1/label/progress")).find(({ queue }) => queue === session.queue);
  show(null, pairs);
}

function show(found, pairs) {
  shown = found;
  const labelled = found ? found.labelled : pairs;
  const all = found ? found.pairs : pairs;
  if ($("work").hidden) $("setup").open = false;
  $("work").hidden = false;
  $("setup-title").textContent = `Labelling as ${session.labeller}, queue ${session.queue}`;
  $("shown").hidden = !found;
  for (const button of $("work").querySelectorAll("[data-key]")) button.disabled = !found && button.dataset.key !== "u";
  $("done").max = all;
  $("done").value = labelled;
  $("done-text").textContent = `${labelled} of ${all} done`;
  $("pair-title").textContent = found ? `Pair ${labelled + 1}` : "All done, thank you";
  $("shown-instruction").textContent = found?.instruction ?? "";
  $("shown-1").textContent = found?.answers[0] ?? "";
  $("shown-2").textContent = found?.answers[1] ?? "";
  $("pair-title").focus({ preventScroll: true });
  $("pair-title").scrollIntoView({ block: "nearest" });
}

async function press(key) {
  if (busy || (!shown && key !== "u")) return;
  busy = true;
  try {
    if (key === "u") {
      const back = await request("v1/label/undo", session);
      if (back) show(back);
      $("label-status").textContent = back ? "Taken back. Here is the pair again." : "There is nothing to take back.";
    } else {
      await request("v1/label/verdicts", { ...session, pair: shown.pair, preference: KEYS[key] });
      $("label-status").textContent = `${SAID[key]}.`;
      await next();
    }
  } finally {
    busy = false;
  }
}

function onKey(event) {
  const typing = event.target.closest("input, textarea, select");
  const mine = !$("label").hidden && !$("work").hidden && !typing && !event.ctrlKey && !event.metaKey && !event.altKey;
  const key = event.key.toLowerCase();
  if (mine && !event.repeat && (key in KEYS || key === "u")) act(() => press(key))(event);
}

function pairOf(row, index) {
  if (typeof row?.output_1 !== "string" || typeof row.output_2 !== "string") {
    throw new Error(`Row ${index + 1} of the file lacks output_1 or output_2; nothing was added.`);
  }
  const pair = { meta: { ...row.meta } };
  for (const name of ["instruction", "input", "messages", "output_1", "output_2"]) if (row[name]) pair[name] = row[name];
  for (const name of ["generator_1", "generator_2", "dataset"]) if (row[name]) pair.meta[name] = String(row[name]);
  if (row.id !== undefined && row.id !== null) pair.id = String(row.id);
  return { output_1: "", output_2: "", ...pair };
}

async function upload() {
  const [file] = $("file").files;
  if (!file || !$("label-form").elements.queue.reportValidity()) return;
  const rows = await file.text().then(JSON.parse).catch(() => null);
  $("file").value = ""; // so that the same file, mended, may be chosen again
  if (!Array.isArray(rows) || !rows.length) throw new Error(`${file.name} is not a JSON list of pairs.`);
  const pairs = rows.map(pairOf);
  const { queue } = entered();
  let added = 0;
  for (let at = 0; at < pairs.length; at += 500) {
    added += (await request("v1/label/pairs", { queue, pairs: pairs.slice(at, at + 500) })).added;
  }
  $("label-status").textContent = `${added} of ${pairs.length} pairs are new and were added to queue ${queue}.`;
  await openLabel();
}

// agreement

let askingQueue = null;
const signed = (value) => value.toFixed(2).replace("-0.00", "0.00").replace("-", "−");
const range = (low, high) => (low === null ? "no interval" : `${signed(low)} to ${signed(high)}`);

async function fillQueues(select) {
  const queues = (await get("v1/label/progress")).map(({ queue }) => queue);
  const wanted = select.value || localStorage.getItem("queue");
  select.replaceChildren(...queues.map((queue) => make("option", {}, queue)));
  if (queues.includes(wanted)) select.value = wanted;
  return select.value;
}

const empty = (sentence) => make("p", { class: "empty" }, sentence);

async function openAgreement() {
  const queue = await fillQueues($("agreement-queue"));
  $("ask").disabled = !queue;
  if (!queue) return $("matrix").replaceChildren(empty("There are no pairs yet. Add some in the Label view."));
  const found = await get("v1/agreement", { queue });
  const names = [...found.humans.map((name) => [name, "person"]), ...found.annotators.map((name) => [name, "simulated"])];
  if (names.length < 2) return $("matrix").replaceChildren(empty("It takes two to agree. Label some pairs, or ask the annotators about them."));
  const parts = [matrix(names, found.cells), make("h2", {}, "In numbers"), couples(found.cells)];
  if (found.left_out) parts.push(make("p", {}, `${found.left_out} more raters, with the fewest labels, are left out.`));
  if (found.fleiss) parts.unshift(make("p", { class: "figure" }, together(found.fleiss)));
  $("matrix").replaceChildren(...parts);
}

function together({ kappa, low, high, n, raters }) {
  const value = kappa === null ? "is undefined" : `is ${signed(kappa)} (${range(low, high)})`;
  return `All people together: Fleiss’ kappa ${value}, on ${n} pairs that ${raters} of them judged.`;
}

function scrolling(label, table) {
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": label }, table);
}

const rowHead = (name, note) => make("th", { scope: "row" }, name, ...(note ? [make("small", {}, note)] : []));
const columns = (...names) => make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));

function matrix(names, cells) {
  const of = new Map(cells.flatMap((cell) => [[JSON.stringify([cell.a, cell.b]), cell], [JSON.stringify([cell.b, cell.a]), cell]]));
  const body = names.map(([row, kind]) => make("tr", {}, rowHead(row, kind),
    ...names.map(([column]) => square(of.get(JSON.stringify([row, column]))))));
  const caption = make("caption", {}, "Kappa of each two");
  return scrolling("Matrix of kappa", make("table", { class: "matrix" }, caption, columns("", ...names.map(([name]) => name)), make("tbody", {}, ...body)));
}

function square(cell) {
  if (!cell) return make("td", {}, "—");
  if (cell.kappa === null) return make("td", {}, "undefined", make("small", {}, `n = ${cell.n}`));
  const level = cell.n < 10 ? 0 : Math.min(4, Math.max(0, Math.ceil(5 * cell.kappa) - 1));
  return make("td", { class: `k${level}` }, make("strong", {}, signed(cell.kappa)), make("small", {}, range(cell.low, cell.high)), make("small", {}, `n = ${cell.n}`));
}

function couples(cells) {
  const body = cells.map((cell) => make("tr", {}, rowHead(`${cell.a} and ${cell.b}`),
    make("td", {}, String(cell.n)), make("td", {}, cell.agreement === null ? "—" : `${Math.round(100 * cell.agreement)}%`),
    cell.kappa === null ? make("td", {}, "undefined") : make("td", {}, signed(cell.kappa), make("small", {}, range(cell.low, cell.high)))));
  return scrolling("Agreement of each two in numbers", make("table", {}, columns("Labellers", "Pairs", "Same verdict", "Kappa, 95% interval"), make("tbody", {}, ...body)));
}

async function askQueue() {
  if (askingQueue) return askingQueue.abort();
  askingQueue = new AbortController();
  const { signal } = askingQueue;
  const queue = $("agreement-queue").value;
  const words = $("ask").textContent;
  const left = new Map();
  $("ask").textContent = "Stop asking";
  try {
    for (const { name } of (await get("v1/annotators", {}, signal)).annotators) {
      let verdicts = 0, absent = 0, why = null, after = 0;
      while (after !== null) {
        $("agreement-status").textContent = `Asking ${name}: ${verdicts} verdicts so far`;
        const part = await request("v1/label/annotate", { queue, annotator: name, after }, signal);
        [verdicts, absent, why, after] = [verdicts + part.verdicts, absent + part.absent, why ?? part.reason, part.next];
      }
      const what = `gave no verdict on ${absent} (${why})`;
      if (absent) left.set(what, [...left.get(what) ?? [], name]);
    }
    $("agreement-status").textContent = ["All annotators have been asked", ...Array.from(left, ([what, names]) => `${names.join(", ")} ${what}`)].join("; ") + ".";
  } catch (error) {
    $("agreement-status").textContent = "Stopped; what was said so far is kept.";
    throw error;
  } finally {
    askingQueue = null;
    $("ask").textContent = words;
    await openAgreement();
  }
}

// leaderboard

let board = [];

async function openLeaderboard() {
  const queue = await fillQueues($("leaderboard-queue"));
  board = queue ? await get("v1/leaderboard", { queue }) : [];
  const judges = new Map(board.map(({ kind, judge }) => [`${kind}:${judge}`, kind === "human" ? "all people" : judge]));
  const wanted = $("judge").value;
  $("judge").replaceChildren(...[...judges].map(([value, name]) => make("option", { value }, name)));
  if (judges.has(wanted)) $("judge").value = wanted;
  $("judge").disabled = !judges.size;
  showBoard();
}

function showBoard() {
  const rows = board.filter(({ kind, judge }) => `${kind}:${judge}` === $("judge").value);
  const nothing = "No verdicts yet on pairs that name their generators (generator_1 and generator_2).";
  $("ranks").replaceChildren(...(rows.length ? [bars(rows), ranks(rows)] : [empty(nothing)]));
}

const percent = (value) => `${value.toFixed(1)}%`;
const interval = ({ low, high }) => `${low.toFixed(1)} to ${high.toFixed(1)}`;

function bars(rows) {
  const step = 56;
  const told = rows.map((row) => `${row.generator} ${percent(row.win_rate)} (${interval(row)})`).join(", ");
  const picture = draw("svg", { class: "bars", height: rows.length * step + 24, role: "img", "aria-label": `Win rates with 95% intervals: ${told}` });
  rows.forEach((row, index) => {
    const y = index * step;
    const [low, rate, high] = [row.low, row.win_rate, row.high].map((value) => `${value}%`);
    picture.append(
      draw("text", { x: 0, y: y + 17 }, row.generator.length > 36 ? `${row.generator.slice(0, 35)}…` : row.generator),
      draw("rect", { class: "track", x: 0, y: y + 27, width: "100%", height: 12, rx: 3 }),
      draw("rect", { class: "bar", x: 0, y: y + 27, width: rate, height: 12, rx: 3 }),
      draw("line", { class: "whisker", x1: low, x2: high, y1: y + 33, y2: y + 33 }),
      draw("line", { class: "whisker", x1: low, x2: low, y1: y + 28, y2: y + 38 }),
      draw("line", { class: "whisker", x1: high, x2: high, y1: y + 28, y2: y + 38 }),
    );
  });
  const bottom = rows.length * step;
  picture.append(draw("line", { class: "half", x1: "50%", x2: "50%", y1: 22, y2: bottom }));
  for (const [x, anchor] of [[0, "start"], [50, "middle"], [100, "end"]]) {
    picture.append(draw("text", { class: "soft", x: `${x}%`, y: bottom + 16, "text-anchor": anchor }, `${x}%`));
  }
  return picture;
}

function ranks(rows) {
  const body = rows.map((row) => make("tr", {}, rowHead(row.generator), make("td", {}, percent(row.win_rate)), make("td", {}, interval(row)), make("td", {}, String(row.n))));
  return scrolling("Leaderboard", make("table", {}, columns("Generator", "Win rate", "95% interval", "Verdicts"), make("tbody", {}, ...body)));
}

// wiring

$("skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
$("token").value = sessionStorage.getItem("token") ?? "";
$("token-form").addEventListener("submit", act(() => {
  sessionStorage.setItem("token", $("token").value.trim());
  $("access").open = false;
  route();
}));
$("labeller").value = localStorage.getItem("labeller") ?? "";
$("queue").value = localStorage.getItem("queue") ?? "default";
$("compare-form").addEventListener("submit", act(compare));
$("example").addEventListener("click", fillExample);
$("label-form").addEventListener("submit", act(start));
$("file").addEventListener("change", act(upload));
for (const button of $("work").querySelectorAll("[data-key]")) button.addEventListener("click", act(() => press(button.dataset.key)));
document.addEventListener("keydown", onKey);
document.querySelector("[role=tablist]").addEventListener("keydown", moveTab);
$("agreement-queue").addEventListener("change", act(openAgreement));
$("ask").addEventListener("click", act(askQueue));
$("leaderboard-queue").addEventListener("change", act(openLeaderboard));
$("judge").addEventListener("change", showBoard);
window.addEventListener("hashchange", route);
route();
