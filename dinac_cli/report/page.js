"use strict";
const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const names = data.reconstructions;
const images = [...document.querySelectorAll("script.image")];
const entries = images.map((node) => JSON.parse(node.dataset.facts));
const pictures = (index) => JSON.parse(images[index].textContent);
const show = (psnr) => (psnr === "missing" ? "missing" : psnr === null ? "identical" : psnr.toFixed(2) + " dB");
const MOST_VALUES = 4;  // a card with more reconstructions shows the value of the chosen one only
const rank = (psnr) => (psnr === null ? Infinity : psnr);

// The grid: cards are created once, then reordered or hidden; pictures load when they come into view.
let chosen = 0;  // the reconstruction that determines the order
const seen = new Set();
const lazy = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    if (!isIntersecting) continue;
    seen.add(Number(target.dataset.index));
    fill(target.dataset.index);
    lazy.unobserve(target);
  }
}, { rootMargin: "600px" });

function fill(index) {
  const [original, difference] = cards[index].querySelectorAll("img"), all = pictures(index);
  const url = all.differences[chosen];
  put(original, [all.thumbnail, `${entries[index].name}, original`]);
  difference.style.visibility = url ? "" : "hidden";
  if (url) put(difference, [url, `${entries[index].name}, difference of ${names[chosen]}`]);
  if (names.length > MOST_VALUES) cards[index].querySelector(".values").textContent = show(entries[index].psnr[chosen]);
}

function put(image, [url, alt]) {
  if (image.getAttribute("src") !== url) image.src = url;
  image.alt = alt;
}

const cards = entries.map((entry, index) => {
  const card = document.createElement("button");
  card.className = "card";
  card.dataset.index = index;
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = name.title = entry.name;
  const values = document.createElement("span");
  values.className = "values";
  values.textContent = names.length > MOST_VALUES ? show(entry.psnr[chosen]) : entry.psnr.map(show).join(" · ");
  for (const shown of ["original", "difference"]) {
    const image = card.appendChild(document.createElement("img"));
    image.className = shown;
    image.alt = "";
  }
  card.append(name, values);
  card.addEventListener("click", () => open(index));
  lazy.observe(card);
  return card;
});

for (const [k, name] of names.entries()) {
  find("sort").add(new Option(`worst first: ${name}`, `${k}+`));
  find("sort").add(new Option(`best first: ${name}`, `${k}-`));
}
find("sort").add(new Option("by name", "name"));

let order = [];
function arrange() {
  const sort = find("sort").value;
  const k = sort === "name" ? chosen : Number.parseInt(sort);
  const bound = (id, none) => (find(id).value === "" ? none : Number(find(id).value));
  const low = bound("low", -Infinity), high = bound("high", Infinity);
  const wanted = find("name").value.toLowerCase();
  const value = (index) => rank(entries[index].psnr[k]);
  order = entries.map((_, index) => index).filter((index) => {
    const within = value(index) === "missing"
      ? low === -Infinity && high === Infinity
      : value(index) >= low && value(index) <= high;
    return within && entries[index].name.toLowerCase().includes(wanted);
  });
  if (sort !== "name") {
    const sign = sort.endsWith("-") ? -1 : 1;
    const missing = (index) => value(index) === "missing";
    order.sort((a, b) => {
      if (missing(a) || missing(b) || value(a) === value(b)) return missing(a) - missing(b) || a - b;
      return value(a) < value(b) ? -sign : sign;
    });
  }
  if (k !== chosen) {
    chosen = k;
    pick("right", k);
    if (state.view.startsWith("rec")) state.view = `reconstruction ${k}`;
    for (const index of seen) fill(index);
  }
  find("grid").replaceChildren(...order.map((index) => cards[index]));
  find("count").textContent = `${order.length} of ${entries.length} images`;
}
for (const id of ["sort", "low", "high", "name"]) find(id).addEventListener("input", arrange);
find("show").addEventListener("input", () => { find("grid").dataset.show = find("show").value; });
find("controls").addEventListener("submit", (event) => event.preventDefault());

// The viewer: two stacked pictures; the view determines what is shown of them, and how.
const viewer = find("viewer"), frame = find("frame"), above = find("above"), below = find("below");
// The divider and the difference compare the pictures `left` and `right`.
const ORIGINAL = -1;  // any other picture is the number of a reconstruction
const everyPicture = [ORIGINAL, ...names.keys()];
const state = { index: 0, view: "divider", left: ORIGINAL, right: 0, zoom: 0, divider: 50, gain: 10 };
const sides = { left: "right", right: "left" };  // each side, and the other side
for (const side of Object.keys(sides)) {
  for (const k of everyPicture) find(`${side}-side`).add(new Option(label(k), k));
  find(`${side}-side`).addEventListener("input", (event) => {
    pick(side, Number(event.target.value));
    paint();
  });
}
arrange();

function label(k) { return k === ORIGINAL ? "original" : names[k]; }
function locate(all, k) { return k === ORIGINAL ? all.original : all.reconstructions[k]; }

function describe(k) {
  const { psnr, bits_per_pixel: rates } = entries[state.index];
  if (k === ORIGINAL) return label(k);
  const rate = rates[k] ? `, ${rates[k].toFixed(2)} bits per pixel` : "";
  return `${label(k)} ${show(psnr[k])}${rate}`;
}

function pick(side, k) {  // a picture that is on the other side changes places
  if (state[sides[side]] === k) state[sides[side]] = state[side];
  state[side] = k;
}

function cycle(side) {  // to the next picture that exists and is not on the other side
  const all = pictures(state.index), count = everyPicture.length;
  const at = everyPicture.indexOf(state[side]);
  const next = [...everyPicture.keys()].map((by) => everyPicture[(at + by + 1) % count]);
  pick(side, next.find((k) => k !== state[sides[side]] && locate(all, k)) ?? state[side]);
  paint();
}

function views() {
  const list = [["divider", "divider"], ["original", "original"]];
  for (const [k, name] of names.entries()) list.push([`reconstruction ${k}`, name]);
  list.push(["difference", "difference"]);
  if (pictures(state.index).latents) list.push(["latents", "latents"]);
  return list;
}

function paint() {
  const entry = entries[state.index], all = pictures(state.index);
  const { left, right } = state;
  const picture = (k) => [locate(all, k), k === ORIGINAL
    ? `${entry.name}, original` : `${entry.name}, reconstruction ${names[k]}, ${show(entry.psnr[k])}`];
  const isPair = Boolean(locate(all, left) && locate(all, right));
  const divided = state.view === "divider" && isPair;
  const subtracted = state.view === "difference" && isPair;
  const compares = state.view === "divider" || state.view === "difference";
  const single = [state.view === "original" ? ORIGINAL : right, left, ORIGINAL].find((k) => locate(all, k));
  above.hidden = !isPair || !compares;
  if (isPair && compares) { put(above, picture(left)); put(below, picture(right)); }
  else if (state.view === "latents") put(below, [all.latents, `${entry.name}, latents`]);
  else put(below, picture(single));
  above.style.clipPath = divided ? `inset(0 ${100 - state.divider}% 0 0)` : "";
  frame.classList.toggle("difference", subtracted);
  frame.style.filter = subtracted ? `brightness(${state.gain})` : "";
  below.classList.toggle("grid", state.view === "latents");
  for (const id of ["divider", "left", "right"]) find(id).hidden = !divided;
  find("left").textContent = label(left);
  find("right").textContent = label(right);
  find("divider").style.left = `${state.divider}%`;
  find("divider").setAttribute("aria-label", `Divider between ${label(left)} and ${label(right)}`);
  find("divider").setAttribute("aria-valuenow", Math.round(state.divider));
  find("sides").hidden = !compares || names.length < 2;
  for (const side of Object.keys(sides)) {
    for (const option of find(`${side}-side`).options) option.disabled = !locate(all, Number(option.value));
    find(`${side}-side`).value = state[side];
  }
  find("gain-label").hidden = state.view !== "difference";
  find("gain-value").textContent = `${state.gain}x`;
  const shown = compares ? [left, right].filter((k) => k !== ORIGINAL) : [right];
  find("title").textContent = `${entry.name}: ${shown.map(describe).join(" | ")}`;
  const hasFocus = find("views").contains(document.activeElement);
  find("views").replaceChildren(...views().map(([view, label]) => {
    const button = document.createElement("button");
    button.textContent = label;
    button.setAttribute("aria-pressed", state.view === view);
    button.addEventListener("click", () => choose(view));
    return button;
  }));
  if (hasFocus) find("views").querySelector("[aria-pressed=true]").focus();
  resize();
}

function choose(view) {
  if (view.startsWith("rec")) pick("right", Number(view.split(" ")[1]));
  state.view = view;
  paint();
}

function fitted() {
  const { width, height } = entries[state.index], stage = find("stage");
  return Math.min(stage.clientWidth / width, stage.clientHeight / height);
}

function resize() {
  const { width, height } = entries[state.index];
  const scale = state.zoom || fitted();
  frame.style.width = `${width * scale}px`;
  frame.style.height = `${height * scale}px`;
  frame.classList.toggle("large", scale >= 2);
}

function zoom(factor) {
  const stage = find("stage"), before = state.zoom || fitted();
  state.zoom = Math.min(32, Math.max(0.05, before * factor));
  const ratio = state.zoom / before;
  const x = stage.scrollLeft + stage.clientWidth / 2, y = stage.scrollTop + stage.clientHeight / 2;
  resize();
  stage.scrollTo(x * ratio - stage.clientWidth / 2, y * ratio - stage.clientHeight / 2);
}

function open(index) {
  state.index = index;
  state.zoom = 0;
  if (state.view === "latents" && !pictures(index).latents) state.view = "divider";
  if (!viewer.open) viewer.showModal();
  paint();
}

function step(by) {
  const at = order.indexOf(state.index);
  if (order.length) open(order[(at + by + order.length) % order.length]);
}

function drag(event) {
  const box = frame.getBoundingClientRect();
  state.divider = Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width));
  paint();
}
find("divider").addEventListener("pointerdown", (event) => {
  find("divider").setPointerCapture(event.pointerId);
  find("divider").addEventListener("pointermove", drag);
});
for (const type of ["pointerup", "pointercancel"]) {
  find("divider").addEventListener(type, () => find("divider").removeEventListener("pointermove", drag));
}
find("divider").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[event.key];
  if (by === undefined) return;
  state.divider = Math.min(100, Math.max(0, state.divider + by));
  paint();
  event.preventDefault();
  event.stopPropagation();
});
find("gain").addEventListener("input", () => { state.gain = Number(find("gain").value); paint(); });
find("in").addEventListener("click", () => zoom(1.5));
find("out").addEventListener("click", () => zoom(1 / 1.5));
find("fit").addEventListener("click", () => { state.zoom = 0; resize(); });
find("previous").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
find("close").addEventListener("click", () => viewer.close());
find("stage").addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
}, { passive: false });
viewer.addEventListener("close", () => cards[state.index].focus());
viewer.addEventListener("keydown", (event) => {
  if (event.target.matches("#gain, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = Number.parseInt(event.key);
  const actions = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1),
    o: () => choose("original"), s: () => choose("divider"), d: () => choose("difference"),
    l: () => cycle("left"), r: () => cycle("right"),
    p: () => { if (pictures(state.index).latents) choose("latents"); },
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5),
    0: () => { state.zoom = 0; resize(); },
  };
  if (digit >= 1 && digit <= names.length) choose(`reconstruction ${digit - 1}`);
  else if (actions[event.key]) actions[event.key]();
  else return;
  event.preventDefault();
});
addEventListener("resize", () => { if (viewer.open) resize(); });
