"use strict";
// Sorting and turning pages are extras: without them the first slides stand in the order of the batch.
const table = document.getElementById("slides");
const body = table.tBodies[0];
const compare = new Intl.Collator("en-GB", { numeric: true }).compare;
// Further pages lie in blocks of text: a browser neither parses them, nor lays them out, until they are asked for.
const further = document.querySelectorAll("script.further");
const perPage = body.rows.length;
const total = Number(table.dataset.rows);
const parsed = [[...body.rows]];
let sorted = null;
let page = 0;

function rowsOf(number) {
  if (sorted) return sorted.slice(number * perPage, (number + 1) * perPage);
  if (!parsed[number]) {
    const holder = document.createElement("template");
    holder.innerHTML = `<table><tbody>${further[number - 1].textContent}</tbody></table>`;
    parsed[number] = [...holder.content.querySelectorAll("tr")];
  }
  return parsed[number];
}

const all = () => sorted ?? [0, ...further].flatMap((_, number) => rowsOf(number));

const pager = document.createElement("p");
pager.className = "pager";
const place = document.createElement("span");
const turn = (label, step) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", () => show(page + step));
  return button;
};
const back = turn("Previous", -1);
const on = turn("Next", 1);
pager.append(back, " ", place, " ", on);

function say() {
  const first = page * perPage;
  place.textContent = `Slides ${first + 1} to ${Math.min(first + perPage, total)} of ${total}`;
  back.disabled = page === 0;
  on.disabled = page === further.length;
}

function show(wanted) {
  page = Math.max(0, Math.min(further.length, wanted));
  body.replaceChildren(...rowsOf(page));
  say();
}

if (further.length) {
  table.before(pager);
  say();
}

table.querySelectorAll("th[data-sortable]").forEach((heading) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const value = (row) => {
      // A failed slide's reason spans two columns.
      let column = heading.cellIndex;
      for (const cell of row.cells) {
        if (column < cell.colSpan) return cell.dataset.sort;
        column -= cell.colSpan;
      }
      return "";
    };
    const keyed = all().map((row) => [value(row), row]);
    const numeric = keyed.every(([key]) => key === "" || !Number.isNaN(Number(key)));
    keyed.sort(([a], [b]) => sign * (numeric ? Number(a) - Number(b) : compare(a, b)));
    sorted = keyed.map(([, row]) => row);
    show(0);
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  });
});
