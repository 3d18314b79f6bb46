"use strict";
// Photos come as data; every text goes into the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const photos = data.photos, byFile = new Map(photos.map(p => [p.file, p]));
const $ = id => document.getElementById(id);
const grid = $("grid"), large = $("large"), cards = new Map();
const groups = new Map();
for (const p of photos) groups.set(p.group, (groups.get(p.group) || 0) + 1);

// --- choices: {id: {pick: "keep" | "reject" | "", stars: 1 to 5 | 0}}, kept by the browser where it lets us ---
let choices = {};
try { choices = JSON.parse(localStorage.getItem(data.key)) || {}; } catch (e) { /* a browser without storage */ }
const pick = p => (choices[p.id] || {}).pick || "";
const stars = p => (choices[p.id] || {}).stars || p.stars;
function choose(p, change) {
  choices[p.id] = Object.assign({pick: "", stars: 0}, choices[p.id], change);
  if (!choices[p.id].pick && !choices[p.id].stars) delete choices[p.id];
  try { localStorage.setItem(data.key, JSON.stringify(choices)); } catch (e) { /* as above */ }
  const card = cards.get(p.file);
  if (card) decorate(card, p);
}

// --- a photo's card ---
function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
const percent = v => v.toFixed(v > 99 || v < 1 ? 2 : 1) + " %";
function starsOf(n, className) {
  const element = make("span", className, "★".repeat(n) + "☆".repeat(5 - n));
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `${n} of 5 stars`);
  return element;
}
const votes = p => p.mean_vote.toFixed(2) + (p.spread === null ? "" : ` ± ${p.spread.toFixed(2)}`);
function histogram(p) {
  const shares = p.votes.split(" ").map(Number), most = Math.max(...shares), box = make("div", "votes");
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", "shares of the votes 1 to 10: " + shares.map(s => (s / 100).toFixed(1) + " %").join(", "));
  shares.forEach((share, i) => {
    const column = make("span"), bar = make("span", "bar");
    bar.style.height = 48 * share / most + "px";
    column.title = `${i + 1}: ${(share / 100).toFixed(1)} %`;
    column.append(bar, make("small", "soft", i + 1));
    box.append(column);
  });
  return box;
}
function frame(p, eager) {
  const box = make("div", "frame"), image = make("img");
  image.alt = p.file;
  image.decoding = "async";
  if (eager) image.src = "data:image/jpeg;base64," + p.thumbnail;
  box.append(image);
  return box;
}
function overlay(box, p) {
  box.querySelector("canvas")?.remove();
  if (!$("heat").checked || !p.heat) return;
  const values = Uint8Array.from(atob(p.heat), c => c.charCodeAt(0)), rows = p.heat_rows, columns = values.length / rows;
  const canvas = make("canvas"), context = canvas.getContext("2d");
  canvas.width = columns; canvas.height = rows;
  const pixels = context.createImageData(columns, rows);
  values.forEach((byte, i) => {
    const v = (byte > 127 ? byte - 256 : byte) / 127;
    pixels.data.set(v > 0 ? [255, 120, 0, 190 * v] : [0, 90, 255, -190 * v], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  // The net saw the warped photo's middle only.
  Object.assign(canvas.style, {left: data.inset[1] + "%", top: data.inset[0] + "%",
    width: 100 - 2 * data.inset[1] + "%", height: 100 - 2 * data.inset[0] + "%"});
  box.append(canvas);
}
function facts(p) {
  const box = make("div", "facts"), first = make("div", "line"), second = make("div", "line wrap");
  const name = make("span", "name", p.file);
  name.title = p.file;
  first.append(name, make("span", "soft", "#" + p.rank));
  const score = make("span", "", p.mean_vote === null ? `P ${p.p_high.toFixed(3)}` : p.mean_vote.toFixed(2));
  if (p.mean_vote !== null) score.title = "mean vote " + votes(p);
  second.append(starsOf(stars(p), "stars"), score,
    make("span", "soft", percent(p.percentile)));
  box.append(first, second);
  const size = groups.get(p.group);
  if (size > 1) box.append(make("span", "soft", p.group === p.file ? `best of ${size} alike` : `like ${p.group}`));
  if (p.faults) box.append(make("span", "fault", p.faults));
  const buttons = make("span", "buttons");
  for (const what of ["keep", "reject"]) {
    const button = make("button", "", what);
    button.type = "button"; button.dataset.do = what; button.tabIndex = -1;
    button.setAttribute("aria-pressed", pick(p) === what);
    button.setAttribute("aria-label", `${what} ${p.file}`);
    buttons.append(button);
  }
  box.append(buttons);
  return box;
}
function decorate(card, p) {
  card.className = "card " + pick(p);
  card.setAttribute("aria-label", `${p.file}, ${stars(p)} of 5 stars` + (pick(p) && `, ${pick(p)}`));
  card.replaceChildren(card.firstChild, facts(p));
}
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) {
    const p = byFile.get(entry.target.dataset.file), image = entry.target.querySelector("img");
    image.src = "data:image/jpeg;base64," + p.thumbnail;
    overlay(entry.target.querySelector(".frame"), p);
    seen.unobserve(entry.target);
  }
}, {rootMargin: "600px"});
function card(p) {
  let element = cards.get(p.file);
  if (!element) {
    element = make("figure");
    element.dataset.file = p.file;
    element.tabIndex = -1;
    element.setAttribute("role", "group");
    const photo = make("div", "photo");
    photo.append(frame(p));
    element.append(photo);
    cards.set(p.file, element);
    decorate(element, p);
    seen.observe(element);
  }
  return element;
}

// --- which are shown ---
let shown = [], current = null;
function refresh() {
  const scale = $("scale").value, level = Number($("threshold").value), by = $("sort").value, show = $("show").value;
  const least = {p_high: level / 100, mean_vote: 1 + 9 * level / 100}[scale] ?? level;
  shown = photos.filter(p => p[scale] >= least && (!$("best").checked || p.group === p.file || pick(p)) &&
    (show === "all" || (show === "open" ? !pick(p) : pick(p) === show)));
  const text = by === "file" || by === "taken";
  shown.sort((a, b) => (text ? (a[by] || "~").localeCompare(b[by] || "~") : b[by] - a[by]) || a.rank - b.rank);
  grid.replaceChildren(...shown.map(card));
  $("level").textContent = {p_high: least.toFixed(3), mean_vote: least.toFixed(2)}[scale] ?? level + " %";
  const kept = photos.filter(p => pick(p) === "keep").length, rejected = photos.filter(p => pick(p) === "reject").length;
  $("count").textContent = `${shown.length} of ${photos.length} shown, ${kept} kept, ${rejected} rejected`;
  $("none").hidden = shown.length > 0;
  if (!shown.includes(current)) current = shown[0] || null;
  for (const p of shown) cards.get(p.file).tabIndex = p === current ? 0 : -1;
}
function go(p, focus = true) {
  if (!p) return;
  if (current && cards.has(current.file)) cards.get(current.file).tabIndex = -1;
  current = p;
  const element = cards.get(p.file);
  element.tabIndex = 0;
  if (focus) { element.focus({preventScroll: true}); element.scrollIntoView({block: "nearest"}); }
  if (large.open) open(p);
}
function open(p) {
  const box = frame(p, true), list = make("dl"), link = make("a", "", "open the photo itself");
  // The picture fills its box, whatever its shape: the heat map is laid over the box.
  box.querySelector("img").style.setProperty("--ratio", p.width / p.height);
  overlay(box, p);
  const voted = p.mean_vote === null ? [] : [["mean vote", votes(p)]];
  if (p.votes) voted.push(["votes", histogram(p)]);
  const rows = [["file", p.file], ["stars", starsOf(stars(p))], ...voted, ["P(high)", p.p_high.toFixed(6)],
    ["percentile", percent(p.percentile)], ["sharpness", p.sharpness], ["brightness", p.brightness],
    ["burnt out, no detail in the dark", `${percent(100 * p.burnt)}, ${percent(100 * p.crushed)}`],
    ["faults", p.faults || "none"], ["size", `${p.width} x ${p.height}`], ["taken", p.taken || "unknown"],
    ["choice", pick(p) || "undecided"]];
  for (const [term, value] of rows) {
    const given = make("dd");
    given.append(value);  // a number or a name becomes text
    list.append(make("dt", "", term), given);
  }
  link.href = p.href;
  link.target = "_blank";
  link.rel = "noreferrer";
  large.replaceChildren(box, list, link);
  if (!large.open) large.showModal();
  large.focus();  // not its link: that would scroll the photo away
}

// --- export: a spreadsheet takes text that begins like a formula for one ---
const cell = value => {
  const text = String(value), safe = /^[=+\-@\t\r']/.test(text) && typeof value === "string" ? "'" + text : text;
  return /[",\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
};
function save() {
  const rows = photos.filter(p => pick(p) || (choices[p.id] || {}).stars)
    .map(p => [p.file, pick(p), (choices[p.id] || {}).stars || "", p.p_high, p.percentile]);
  const text = [["file", "pick", "stars", "p_high", "percentile"], ...rows].map(r => r.map(cell).join(",")).join("\n");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text + "\n"], {type: "text/csv"}));
  link.download = "picks.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- mouse and keyboard ---
grid.addEventListener("click", event => {
  const element = event.target.closest(".card");
  if (!element) return;
  const p = byFile.get(element.dataset.file), what = event.target.dataset.do;
  if (what) choose(p, {pick: pick(p) === what ? "" : what});
  go(p);
  if (what) count(); else if (event.target.closest(".photo")) open(p);
});
function count() {
  const on = document.activeElement;
  refresh();
  if (on && on.classList.contains("card") && current) go(current);
}
large.addEventListener("click", event => { if (event.target === large) large.close(); });
large.addEventListener("close", () => go(current));
for (const id of ["scale", "threshold", "sort", "show", "best"]) $(id).addEventListener("input", () => {
  refresh();
  // The photo that is shown large may be another now: a choice is made for the one that a person sees.
  if (large.open) { if (current) open(current); else large.close(); }
});
$("heat").addEventListener("input", () => {
  for (const [file, element] of cards) if (element.querySelector("img").src) {
    overlay(element.querySelector(".frame"), byFile.get(file));
  }
  if (large.open) open(current);
});
$("keep-shown").addEventListener("click", () => {
  for (const p of shown) if (pick(p) !== "reject") choose(p, {pick: "keep"});
  refresh();
});
$("export").addEventListener("click", save);
function columns() {
  const tops = shown.map(p => cards.get(p.file).offsetTop), wide = tops.findIndex(top => top !== tops[0]);
  return wide < 0 ? tops.length : wide;
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /SELECT|SUMMARY/.test(event.target.tagName)) return;
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
  if (event.target.tagName === "BUTTON" && event.key === "Enter") return;
  const at = shown.indexOf(current), rows = {ArrowDown: 1, ArrowUp: -1}[event.key];
  const move = {ArrowRight: 1, ArrowLeft: -1}[event.key] || (rows && rows * columns());
  const next = {k: {pick: "keep"}, x: {pick: "reject"}, u: {pick: ""}}[event.key] ||
    (/^[0-5]$/.test(event.key) ? {stars: Number(event.key)} : null);
  if (move) go(shown[Math.min(Math.max(at + move, 0), shown.length - 1)]);
  else if (next && current) {
    // A choice may take the photo out of what is shown: its follower is the next to look at.
    const after = shown[at + 1] || shown[at - 1] || null;
    choose(current, next);
    const decided = current;
    refresh();
    if (!shown.includes(decided) && after) go(after); else go(decided);
    if ("pick" in next && next.pick && shown.includes(decided)) go(shown[shown.indexOf(decided) + 1] || decided);
  } else if (event.key === "h") $("heat").click();
  else if (event.key === "g") $("best").click();
  else if (event.key === "e") save();
  else if (event.key === "Enter" && current && !large.open) open(current);
  else return;
  event.preventDefault();
});
refresh();
