/** The table of slides: sorted by any column, filtered, a hundred rows at a time. */

import { type Overview, recordAddress, type Row } from "./api";
import { element, swatch } from "./dom";
import { area, density, percent, whole } from "./wording";

const PAGE = 100;

interface Column {
  title: string;
  value: (row: Row) => string | number | null;
  cell: (row: Row) => Node | string;
  numeric?: boolean;
}

const STATUS = { scored: "scored", abstained: "abstained", failed: "failed" } as const;

/** Kept while the page is open, so that the table is unchanged on return from a slide. */
const state = { sort: 0, descending: false, text: "", status: "", run: "", page: 0 };

export const slideAddress = (row: { run: number; key: string }): string => `#/slide/${row.run}/${row.key}`;
export const patientAddress = (patient: string): string => `#/patient/${encodeURIComponent(patient)}`;

function columns(overview: Overview): Column[] {
  const several = overview.runs.length > 1;
  const all: (Column | false)[] = [
    { title: "Slide", value: (r) => r.id, cell: (r) => element("a", { href: slideAddress(r) }, r.id) },
    overview.slides.some((r) => r.patient !== null) && {
      title: "Patient",
      value: (r) => r.patient,
      cell: (r) => (r.patient === null ? "–" : element("a", { href: patientAddress(r.patient) }, r.patient)),
    },
    several && { title: "Results", value: (r) => r.run, cell: (r) => overview.runs[r.run]?.name ?? "" },
    {
      title: "Status",
      value: (r) => r.status,
      cell: (r) => element("span", { class: `tag ${r.status}` }, STATUS[r.status]),
    },
    {
      title: "Prediction",
      value: (r) => (r.status === "scored" ? r.prediction ?? r.mitoses : null),
      cell: (r) => {
        if (r.status === "abstained") {
          return element("span", {}, r.answer, r.reason === r.answer ? null : element("span", { class: "reason" }, ` ${r.reason}`));
        }
        if (r.status === "failed") return element("span", { class: "reason" }, r.reason);
        if (r.prediction === null && r.mitoses !== null) return `${whole(r.mitoses)} ${r.mitoses === 1 ? "mitosis" : "mitoses"}`;
        return element("span", {}, r.colour === null ? null : swatch(r.colour), r.prediction ?? "–");
      },
    },
    overview.slides.some((r) => r.confidence !== null) && {
      title: "Confidence",
      value: (r) => r.confidence,
      cell: (r) => percent(r.confidence),
      numeric: true,
    },
    overview.slides.some((r) => r.mitoses_per_mm2 !== null) && {
      title: "Mitoses in hotspot",
      value: (r) => r.mitoses_per_mm2,
      cell: (r) => density(r.mitoses_per_mm2),
      numeric: true,
    },
    { title: "Tissue", value: (r) => r.tissue_mm2, cell: (r) => area(r.tissue_mm2), numeric: true },
    { title: "Patches", value: (r) => r.patches, cell: (r) => whole(r.patches), numeric: true },
  ];
  return all.filter((column): column is Column => column !== false);
}

const order = new Intl.Collator("en-GB", { numeric: true });

function sorted(rows: Row[], column: Column, descending: boolean): Row[] {
  const sign = descending ? -1 : 1;
  return [...rows].sort((first, second) => {
    const a = column.value(first);
    const b = column.value(second);
    // Missing values are last in either order.
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b)));
  });
}

function matching(overview: Overview, patient: string | null): Row[] {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  return overview.slides.filter((row) => {
    if (patient !== null && row.patient !== patient) return false;
    if (state.status && row.status !== state.status) return false;
    if (state.run && String(row.run) !== state.run) return false;
    const text = `${row.id} ${row.patient ?? ""} ${row.prediction ?? ""} ${row.model} ${row.answer} ${row.reason}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** Show the table of all slides, or of one patient's. */
export function showTable(app: HTMLElement, overview: Overview, patient: string | null): void {
  const shown = columns(overview);
  const counts = element("p", { class: "summary", role: "status" });
  const head = element("tr");
  const body = element("tbody");
  const pages = element("nav", { class: "pages", "aria-label": "Pages of the table" });

  const options = (values: [string, string][], current: string): HTMLOptionElement[] =>
    values.map(([value, text]) => element("option", { value, selected: value === current }, text));
  const text = element("input", {
    type: "search",
    placeholder: "Slide, patient, prediction, reason",
    "aria-label": "Filter the table",
    value: state.text,
    oninput: () => change({ text: text.value }),
  });
  const status = element(
    "select",
    { "aria-label": "Status", onchange: () => change({ status: status.value }) },
    ...options([["", "any status"], ["scored", "scored"], ["abstained", "abstained"], ["failed", "failed"]], state.status),
  );
  const runs = element(
    "select",
    { "aria-label": "Results", onchange: () => change({ run: runs.value }) },
    ...options([["", "all results"], ...overview.runs.map((r, i): [string, string] => [String(i), r.name])], state.run),
  );

  // On a narrow screen, the table has no header; these two controls sort it.
  const by = element(
    "select",
    { "aria-label": "Sort by", onchange: () => change({ sort: Number(by.value) }) },
    ...options(shown.map((c, index): [string, string] => [String(index), `by ${c.title.toLowerCase()}`]), String(state.sort)),
  );
  const reverse = element("button", { type: "button", onclick: () => change({ descending: !state.descending }) }, "Reverse order");

  const change = (changes: Partial<typeof state>): void => {
    Object.assign(state, { page: 0 }, changes);
    draw();
  };

  const draw = (): void => {
    const column = shown[Math.min(state.sort, shown.length - 1)]!;
    const rows = sorted(matching(overview, patient), column, state.descending);
    head.replaceChildren(
      ...shown.map((c, index) => {
        const current = index === state.sort;
        const direction = current ? (state.descending ? "descending" : "ascending") : "none";
        const button = element(
          "button",
          {
            type: "button",
            onclick: () => {
              change({ sort: index, descending: current && !state.descending });
              head.querySelectorAll("button")[index]?.focus();
            },
          },
          c.title,
        );
        return element("th", { scope: "col", "aria-sort": direction, class: c.numeric ? "num" : null }, button);
      }),
    );
    const last = Math.max(0, Math.ceil(rows.length / PAGE) - 1);
    state.page = Math.min(state.page, last);
    const part = rows.slice(state.page * PAGE, (state.page + 1) * PAGE);
    body.replaceChildren(
      ...part.map((row) =>
        element(
          "tr",
          { class: row.status },
          ...shown.map((c) => {
            const cell = c.cell(row);
            const look = [c.numeric && "num", cell === "–" && "empty"].filter(Boolean).join(" ");
            return element("td", { class: look || null, "data-label": c.title }, cell);
          }),
        ),
      ),
    );
    by.value = String(state.sort);
    const having = (wanted: Row["status"]): number => rows.filter((row) => row.status === wanted).length;
    counts.textContent =
      `${whole(rows.length)} of ${whole(overview.slides.length)} slides: ${whole(having("scored"))} scored, ` +
      `${whole(having("abstained"))} abstained, ${whole(having("failed"))} failed.`;
    const step = (by: number, label: string, disabled: boolean): HTMLButtonElement =>
      element(
        "button",
        {
          type: "button",
          disabled,
          onclick: () => {
            state.page += by;
            draw();
          },
        },
        label,
      );
    pages.replaceChildren(
      ...(last === 0
        ? []
        : [
            step(-1, "Previous", state.page === 0),
            ` page ${state.page + 1} of ${last + 1} `,
            step(1, "Next", state.page === last),
          ]),
    );
  };

  const record = patient === null ? null : overview.slides.find((row) => row.patient === patient)?.patient_record ?? null;
  app.replaceChildren(
    element(
      "main",
      { class: "table-page" },
      patient === null
        ? element("h1", {}, "Slides")
        : element(
            "div",
            {},
            element("p", {}, element("a", { href: "#/" }, "← All slides")),
            element("h1", {}, `Patient ${patient}`),
            record === null
              ? null
              : element("p", {}, element("a", { href: recordAddress(record), target: "_blank", rel: "noopener" }, "Patient record")),
          ),
      element("div", { class: "filters" }, text, status, overview.runs.length > 1 ? runs : null, element("div", { class: "narrow" }, by, reverse)),
      counts,
      element("div", { class: "scroll" }, element("table", { class: "slides" }, element("thead", {}, head), body)),
      pages,
    ),
  );
  draw();
}
