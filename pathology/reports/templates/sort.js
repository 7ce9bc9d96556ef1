"use strict";
// Sorting and turning pages are extras: without them the first slides stand in the order of the batch.
const table = document.getElementById("slides");
const body = table.tBodies[0];
const compare = new Intl.Collator("en-GB", { numeric: true }).compare;
const perPage = 100;
let page = 0;
// Further rows lie in a template: a browser reads them but neither lays them out nor paints them.
const further = document.getElementById("further");
let rows = [...body.rows, ...(further ? further.content.querySelectorAll("tr") : [])];
const pages = Math.ceil(rows.length / perPage);

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

function show(wanted) {
  page = Math.max(0, Math.min(pages - 1, wanted));
  const first = page * perPage;
  const shown = further ? rows.slice(first, first + perPage) : rows;
  body.replaceChildren(...shown);
  place.textContent = `Slides ${first + 1} to ${first + shown.length} of ${rows.length}`;
  back.disabled = page === 0;
  on.disabled = page === pages - 1;
}

if (further) {
  table.before(pager);
  show(0);
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
    const keyed = rows.map((row) => [value(row), row]);
    const numeric = keyed.every(([key]) => key === "" || !Number.isNaN(Number(key)));
    keyed.sort(([a], [b]) => sign * (numeric ? Number(a) - Number(b) : compare(a, b)));
    rows = keyed.map(([, row]) => row);
    show(0);
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  });
});
