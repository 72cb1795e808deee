"use strict";
// What the page adds where JavaScript runs: it follows the log, renews what changes, and asks before what cannot be undone.

const base = document.body.dataset.base;
const MOST_ROWS = 200;

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// -- what is renewed: the parts that say how often

function renew(part) {
  const again = () => setTimeout(look, part.dataset.refresh * 1000);
  async function look() {
    if (document.hidden || part.contains(document.activeElement)) return again();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) return again();
      const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(part.id);
      if (!found) return again();
      if (found.innerHTML !== part.innerHTML) {
        // What is scrolled to the side stays where it is.
        const wide = () => [...part.querySelectorAll(".picture, .table")];
        const places = wide().map((one) => one.scrollLeft);
        part.replaceChildren(...found.childNodes);
        wide().forEach((one, n) => (one.scrollLeft = places[n] ?? 0));
      }
      if ("settled" in found.dataset) {
        document.dispatchEvent(new Event("settled"));
        return;
      }
    } catch {
      // the server is away: it is asked again
    }
    again();
  }
  if (!("settled" in part.dataset)) again();
}
document.querySelectorAll("[data-refresh]").forEach(renew);

// -- the stream

const table = document.getElementById("stream");
if (table) {
  const body = table.tBodies[0];
  const hold = document.getElementById("hold");
  const rate = document.getElementById("rate");
  const counts = new Array(60).fill(0);
  // Where the log's order was not settled when the page was written, what it shows comes once more.
  const shown = new Set([...body.rows].map((line) => Number(line.cells[0].textContent)));
  let waiting = [];
  let drawn = false;
  hold.hidden = false;
  rate.removeAttribute("hidden");
  hold.addEventListener("click", () => {
    const held = hold.getAttribute("aria-pressed") !== "true";
    hold.setAttribute("aria-pressed", held);
    hold.textContent = held ? "Go on" : "Hold";
    if (!held) draw();
  });

  function cell(text, kind) {
    const found = document.createElement("td");
    found.textContent = text;
    if (kind) found.className = kind;
    return found;
  }

  function row(event) {
    const found = document.createElement("tr");
    const link = document.createElement("a");
    link.href = `${base}/ui/events/${encodeURIComponent(event.key ?? event.id)}`;
    link.textContent = event.type;
    const type = cell("");
    type.append(link);
    const data = cell("", "wide");
    const code = document.createElement("code");
    const text = JSON.stringify(event.data) ?? "";
    code.textContent = text.length > 160 ? `${text.slice(0, 160)}…` : text;
    data.append(code);
    const time = String(event.time ?? event.recorded).slice(11, 23);
    found.append(cell(event.seq, "number"), cell(time), type, cell(event.source), data);
    return found;
  }

  function draw() {
    drawn = false;
    if (hold.getAttribute("aria-pressed") === "true") {
      waiting = waiting.slice(-MOST_ROWS);
      return;
    }
    // However many came since the last picture, no more rows are made than can be seen.
    const rows = waiting.slice(-MOST_ROWS).reverse().map(row);
    waiting = [];
    body.prepend(...rows);
    while (body.rows.length > MOST_ROWS) body.rows[body.rows.length - 1].remove();
  }

  const source = new EventSource(table.dataset.stream);
  source.addEventListener("event", (message) => {
    const event = JSON.parse(message.data);
    if (shown.has(event.seq)) return;
    waiting.push(event);
    counts[counts.length - 1] += 1;
    if (!drawn) {
      drawn = true;
      requestAnimationFrame(draw);
    }
  });
  source.addEventListener("gap", (message) => {
    const missed = JSON.parse(message.data).missed;
    document.getElementById("gap").textContent = `${missed} events came too fast to be shown.`;
  });

  setInterval(() => {
    const most = Math.max(...counts, 1);
    const points = counts.map((count, n) => `${n * 4},${34 - (count / most) * 22}`).join(" ");
    rate.querySelector("polyline").setAttribute("points", points);
    rate.querySelector("text").textContent = `${counts[counts.length - 1]} a second, at most ${most}`;
    counts.push(0);
    counts.shift();
  }, 1000);
}

// -- what handlers say

const says = document.getElementById("says");
if (says && !("settled" in says.dataset)) {
  const SHOWN = 20000;
  const source = new EventSource(says.dataset.stream);
  document.addEventListener("settled", () => setTimeout(() => source.close(), 1000));

  function made(parent, name, more = {}) {
    const found = document.createElement(name);
    Object.assign(found, more);
    parent.append(found);
    return found;
  }

  // The part about a delivery's newest attempt; nothing for an earlier one.
  function part(said) {
    let found = [...says.querySelectorAll("article")].find((one) => one.dataset.delivery === said.delivery);
    if (found && Number(found.dataset.attempt) > said.attempt) return null;
    if (found && Number(found.dataset.attempt) < said.attempt) found.replaceChildren();
    says.hidden = false;
    found ??= made(says, "article");
    found.dataset.delivery = said.delivery;
    found.dataset.attempt = said.attempt;
    if (!found.firstElementChild) {
      made(found, "h3", { textContent: said.agent });
      const doing = made(found, "p", { className: "doing", hidden: true });
      made(doing, "progress").setAttribute("aria-label", said.agent);
      doing.append(" ");
      made(doing, "span");
    }
    return found;
  }

  source.addEventListener("progress", (message) => {
    const said = JSON.parse(message.data);
    const doing = part(said)?.querySelector(".doing");
    if (!doing) return;
    doing.hidden = false;
    const bar = doing.querySelector("progress");
    if (said.fraction === null) bar.removeAttribute("value");
    else bar.value = said.fraction;
    doing.querySelector("span").textContent = said.text;
  });

  source.addEventListener("chunk", (message) => {
    const said = JSON.parse(message.data);
    const about = part(said);
    if (!about) return;
    let figure = [...about.querySelectorAll("figure")].find((one) => one.dataset.name === said.name);
    if (!figure) {
      figure = made(about, "figure");
      figure.dataset.name = said.name;
      made(figure, "figcaption", { textContent: said.name });
      made(figure, "pre", { tabIndex: 0 });
    }
    const text = figure.querySelector("pre");
    text.textContent = (text.textContent + said.text).slice(-SHOWN);
    text.scrollTop = text.scrollHeight;
  });
}

// -- all of the dead letters that are shown

const all = document.getElementById("all");
if (all) {
  all.hidden = false;
  all.addEventListener("change", () => {
    all.closest("form").querySelectorAll("[name=ids]").forEach((one) => (one.checked = all.checked));
  });
}
