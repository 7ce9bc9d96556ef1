"use strict";
// Sorting is an extra: without it the table stands in the order of the batch.
const table = document.getElementById("slides");
const compare = new Intl.Collator("en-GB", { numeric: true }).compare;
table.querySelectorAll("th[data-sortable]").forEach((heading) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = table.tBodies[0];
    const value = (row) => {
      // A failed slide's reason spans two columns.
      let column = heading.cellIndex;
      for (const cell of row.cells) {
        if (column < cell.colSpan) return cell.dataset.sort;
        column -= cell.colSpan;
      }
      return "";
    };
    const rows = [...body.rows].map((row) => [value(row), row]);
    const numeric = rows.every(([key]) => key === "" || !Number.isNaN(Number(key)));
    rows.sort(([a], [b]) => sign * (numeric ? Number(a) - Number(b) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  });
});
