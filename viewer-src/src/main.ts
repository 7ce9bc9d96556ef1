/** The page: a table of slides, and a page per slide, selected by the address after #. */

import * as api from "./api";
import { element } from "./dom";
import { showSlide } from "./slide_page";
import "./style.css";
import { showTable } from "./table";

let leave: (() => void) | null = null;

async function show(app: HTMLElement, overview: api.Overview): Promise<void> {
  leave?.();
  leave = null;
  const [path = "", query = ""] = location.hash.slice(1).split("?");
  const [, page, first, second] = path.split("/");
  if (page === "slide" && first !== undefined && second !== undefined) {
    leave = await showSlide(app, overview, Number(first), second, new URLSearchParams(query));
  } else {
    showTable(app, overview, page === "patient" && first !== undefined ? decodeURIComponent(first) : null);
  }
}

function problem(app: HTMLElement, error: unknown): void {
  const reason = error instanceof Error ? error.message : String(error);
  app.replaceChildren(
    element(
      "main",
      { class: "table-page" },
      element("div", { class: "answer failed", role: "alert" }, element("p", {}, reason)),
      element("p", {}, element("a", { href: "#/" }, "← All slides")),
    ),
  );
}

async function start(): Promise<void> {
  const app = document.getElementById("app")!;
  const body = element("div", { id: "content" });
  try {
    let overview = await api.overview();
    app.replaceChildren(
      element(
        "header",
        { class: "top" },
        element("a", { href: "#/", class: "product" }, `pathology ${overview.version}`),
        element("span", { class: "ruo" }, overview.notice),
      ),
      body,
    );
    const turn = async (): Promise<void> => {
      try {
        if (api.takeDecided()) overview = await api.overview();
        await show(body, overview);
      } catch (error) {
        problem(body, error);
      }
    };
    window.addEventListener("hashchange", () => void turn());
    await turn();
  } catch (error) {
    app.replaceChildren(body);
    problem(body, error);
  }
}

void start();
