/** The page of one slide: the image with its layers, the side panel, and keyboard shortcuts. */

import * as api from "./api";
import { DetectionLayer } from "./detection_layer";
import { checkbox, element, field, swatch } from "./dom";
import { HeatmapLayer, type HeatmapLook } from "./heatmap_layer";
import { LAYER_TITLES, MaskLayer } from "./mask_layer";
import { magnification, Pane, type View } from "./pane";
import { patientAddress } from "./table";
import { area, density, percent, whole } from "./wording";

const MAGNIFICATIONS = [1, 2.5, 5, 10, 20, 40];
const DETECTION_MAGNIFICATION = 40;
const NOTHING = "";
const PREDICTED = "predicted";

const KEYS: [string, string][] = [
  ["← ↑ → ↓", "move"],
  ["+ −", "zoom in or out"],
  ["0", "whole slide"],
  ["1 … 6", "1x, 2.5x, 5x, 10x, 20x, 40x"],
  ["h", "show or hide the heatmap"],
  ["c", "next class"],
  ["t", "show or hide the tissue outline"],
  ["g", "greyscale slide"],
  ["d", "show or hide detections"],
  ["n p", "next or previous detection"],
  ["a r u", "accept, reject or undo"],
  ["s", "go to the hotspot"],
  ["Esc", "back to the table"],
  ["?", "keyboard shortcuts"],
];

/** Display settings kept from slide to slide. */
const kept: { look: HeatmapLook | null } = { look: null };

/** Show a slide; returns a function that closes it. */
export async function showSlide(
  app: HTMLElement,
  overview: api.Overview,
  run: number,
  key: string,
  query: URLSearchParams,
): Promise<() => void> {
  app.replaceChildren(element("p", { class: "wait", role: "status" }, "Opening the slide …"));
  const about = await api.about(run, key);
  const page = new SlidePage(app, overview, about);
  await page.open(query);
  return () => page.close();
}

interface Half {
  pane: Pane;
  about: api.About;
  heatmap: HeatmapLayer;
  masks: MaskLayer[];
}

class SlidePage {
  private readonly halves: Half[] = [];
  private readonly stages = element("div", { class: "stages" });
  private readonly panel = element("aside", { class: "panel", "aria-label": "Layers and findings" });
  private readonly notices = element("div", { class: "notices", role: "status" });
  private readonly message = element("p", { class: "message", role: "status", "aria-live": "polite" });
  private readonly place = element("span", { class: "place" });
  private readonly legend = element("div", { class: "legend" });
  private readonly magnifications = new Map<number, HTMLButtonElement>();
  private readonly help: HTMLDialogElement;
  private detections: DetectionPanel | null = null;
  private readonly controls: {
    map?: HTMLSelectElement;
    tissue?: HTMLInputElement;
    grey?: HTMLInputElement;
    detections?: HTMLInputElement;
  } = {};
  private readonly look: HeatmapLook;
  private lastClass: string;
  private following = false;
  private readonly listening = new AbortController();

  constructor(
    private readonly app: HTMLElement,
    private readonly overview: api.Overview,
    private readonly about: api.About,
  ) {
    const kind = kept.look?.selected;
    const known = kind === undefined || (kind === null ? about.classes.length > 0 : about.maps.some((map) => map.name === kind));
    this.look = {
      selected: about.classes.length > 0 ? null : undefined,
      colourMap: "viridis",
      opacity: overview.opacity[1],
      threshold: 0,
      smooth: false,
      onTissueOnly: true,
      ...(known ? kept.look : null),
    };
    this.lastClass = about.classes.length > 0 ? PREDICTED : `class ${about.maps[0]?.name ?? ""}`;
    this.help = this.keyHelp();
  }

  async open(query: URLSearchParams): Promise<void> {
    const { about } = this;
    document.title = `${about.id} – pathology viewer`;
    const visible = about.image !== null || about.status !== "failed";
    this.app.replaceChildren(
      element(
        "main",
        { class: visible ? "slide-page" : "table-page" },
        this.heading(),
        this.notices,
        visible ? element("div", { class: "workplace" }, this.stages, this.panel) : null,
        visible ? this.bottom() : null,
        this.help,
      ),
    );
    this.showNotices();
    if (!visible) return;
    const half = this.addHalf(about);
    this.fillPanel(half);
    await half.pane.whenOpen();
    this.goWhereAsked(half.pane, query);
    half.pane.onRest(() => this.remember());
    half.pane.box.addEventListener("pointermove", (event) => this.showPlace(half.pane, event));
    document.addEventListener("keydown", (event) => this.key(event), { signal: this.listening.signal });
    half.pane.box.focus({ preventScroll: true });
  }

  close(): void {
    this.listening.abort();
    // The selection on a detector's slide does not apply to a classifier's maps.
    kept.look = this.about.classes.length > 0 ? this.look : { ...this.look, selected: kept.look?.selected ?? null };
    for (const { pane } of this.halves) pane.close();
    this.halves.length = 0;
    document.title = "pathology viewer";
  }

  // -- around the image -----------------------------------------------------------------------------------------

  private heading(): HTMLElement {
    const { about } = this;
    const finding =
      about.status === "scored"
        ? about.prediction === null
          ? null
          : element(
              "span",
              { class: "finding" },
              about.colour === null ? null : swatch(about.colour),
              element("b", {}, about.prediction),
              ` ${percent(about.confidence)}`,
            )
        : element("span", { class: `tag ${about.status}` }, about.status);
    return element(
      "div",
      { class: "heading" },
      element("a", { href: "#/", class: "back" }, "← Slides"),
      element("h1", {}, about.id),
      finding,
      about.patient === null
        ? null
        : element("a", { href: patientAddress(about.patient) }, `Patient ${about.patient}`),
      about.patient_record === null
        ? null
        : element("a", { href: api.recordAddress(about.patient_record), target: "_blank", rel: "noopener" }, "Record"),
      about.report &&
        element(
          "a",
          { href: api.fileAddress(about.run, about.key, "report.html"), target: "_blank", rel: "noopener" },
          "Report",
        ),
    );
  }

  private showNotices(): void {
    const { about } = this;
    const say = (text: string, kind: string): HTMLElement => element("p", { class: `notice ${kind}` }, text);
    const notices: HTMLElement[] = [];
    if (about.status === "failed") notices.push(say(`This slide was not scored. ${about.reason}`, "failed"));
    else if (about.image_error !== null) {
      notices.push(say(`${about.image_error} Showing the stored overview instead, without detail.`, "abstained"));
    }
    if (about.status === "abstained") notices.push(say(`The model abstained. ${about.answer} ${about.reason}`, "abstained"));
    notices.push(...about.warnings.map((warning) => say(warning, "abstained")));
    this.notices.replaceChildren(...notices);
  }

  private report(error: unknown): void {
    if (error instanceof DOMException && error.name === "AbortError") return;
    this.message.textContent = error instanceof Error ? error.message : String(error);
    this.message.classList.add("failed");
  }

  private say(text: string): void {
    this.message.classList.remove("failed");
    this.message.textContent = text;
  }

  private bottom(): HTMLElement {
    const button = (label: string, title: string, call: () => void): HTMLButtonElement =>
      element("button", { type: "button", title, "aria-label": title, onclick: call }, label);
    const { mpp } = this.about;
    const buttons = MAGNIFICATIONS.map((value, index) => {
      const made = button(`${value}x`, `Magnification ${value}x (key ${index + 1})`, () => this.magnify(value));
      this.magnifications.set(value, made);
      return made;
    });
    return element(
      "div",
      { class: "bottom" },
      element(
        "div",
        { class: "zoom", role: "group", "aria-label": "Magnification" },
        button("Fit", "Whole slide (key 0)", () => this.pane.fit()),
        ...(mpp === null ? [] : buttons),
        button("−", "Zoom out (key −)", () => this.pane.zoomBy(1 / 1.5)),
        button("+", "Zoom in (key +)", () => this.pane.zoomBy(1.5)),
      ),
      this.place,
      this.message,
      button("Shortcuts", "Keyboard shortcuts (key ?)", () => this.help.showModal()),
    );
  }

  private keyHelp(): HTMLDialogElement {
    const rows = KEYS.map(([keys, what]) => element("tr", {}, element("th", { scope: "row" }, keys), element("td", {}, what)));
    const close = element("button", { type: "button", onclick: () => dialog.close() }, "Close");
    const dialog: HTMLDialogElement = element(
      "dialog",
      { "aria-label": "Keyboard shortcuts" },
      element("h2", {}, "Keyboard shortcuts"),
      element("table", {}, element("tbody", {}, ...rows)),
      close,
    );
    return dialog;
  }

  // -- panes ------------------------------------------------------------------------------------------------------

  private get pane(): Pane {
    return this.halves[0]!.pane;
  }

  private addHalf(about: api.About): Half {
    const second = this.halves.length > 0;
    const label = `${second ? "Second view" : "View"} of slide ${about.id}, ${about.model}`;
    const pane = new Pane(about, label, this.stages);
    const heatmap = new HeatmapLayer(about, this.overview, this.look, () => pane.redraw());
    const masks = about.layers.map(({ name, colour }) => new MaskLayer(about, name, colour, () => pane.redraw()));
    const half = { pane, about, heatmap, masks };
    pane.add(heatmap);
    masks.forEach((mask) => pane.add(mask));
    this.halves.push(half);
    pane.onMove((view) => this.follow(half, view));
    let reported = false;
    pane.onTileFailure((message) => {
      if (reported) return;
      reported = true;
      this.report(new Error(`Parts of the slide cannot be read. ${message}`));
    });
    masks
      .find((mask) => mask.name === "tissue")
      ?.mask()
      .then((tissue) => heatmap.setTissue(tissue))
      .catch((error: unknown) => this.report(error));
    heatmap.show(this.lookFor(about)).catch((error: unknown) => this.report(error));
    return half;
  }

  /** Another model may not have the selected class. */
  private lookFor(about: api.About): HeatmapLook {
    const { selected } = this.look;
    const classifier = about.classes.length > 0;
    const known = selected === undefined || (selected === null ? classifier : about.maps.some((map) => map.name === selected));
    return known ? this.look : { ...this.look, selected: classifier ? null : undefined };
  }

  private follow(half: Half, view: View): void {
    if (half === this.halves[0]) this.markMagnification(view);
    const other = this.halves.find((candidate) => candidate !== half);
    if (!other || this.following) return;
    const from = half.pane.view();
    const [x, y] = [(from.width / 2 - from.shiftX) / from.scaleX, (from.height / 2 - from.shiftY) / from.scaleY];
    const to = other.pane.view();
    const away = Math.hypot((to.width / 2 - to.shiftX) / to.scaleX - x, (to.height / 2 - to.shiftY) / to.scaleY - y);
    if (away * from.scaleX < 0.5 && Math.abs(to.scaleX / from.scaleX - 1) < 1e-3) return;
    this.following = true;
    other.pane.goTo(x, y, from.scaleX, true);
    requestAnimationFrame(() => requestAnimationFrame(() => (this.following = false)));
  }

  private async compare(choice: string): Promise<void> {
    const second = this.halves[1];
    if (second) {
      second.pane.close();
      this.halves.pop();
    }
    this.pane.box.querySelector(".pane-name")?.remove();
    this.stages.classList.toggle("two", choice !== NOTHING);
    const other = this.about.others[Number(choice)];
    if (choice === NOTHING || !other) return;
    const half = this.addHalf(await api.about(other.run, other.key));
    if (half.about.detections !== null) {
      // For comparison only; detections are reviewed in the left view.
      const layer = new DetectionLayer(half.about, half.pane, (error) => this.report(error));
      layer.least = half.about.detections.threshold;
      half.pane.add(layer);
    }
    for (const { pane, about } of this.halves) {
      const label = `${this.overview.runs[about.run]?.name ?? ""}: ${about.model}`;
      pane.box.append(element("p", { class: "pane-name" }, label));
    }
    await half.pane.whenOpen();
    const { x, y, scale } = this.pane.target();
    half.pane.goTo(x, y, scale, true);
    this.applyMasks();
    half.pane.inGrey(this.controls.grey?.checked ?? false);
  }

  private goWhereAsked(pane: Pane, query: URLSearchParams): void {
    const [x, y, scale] = ["x", "y", "s"].map((name) => Number(query.get(name) ?? NaN)) as [number, number, number];
    if (Number.isFinite(x) && Number.isFinite(y) && scale > 0) pane.goTo(x, y, scale, true);
  }

  /** Keep the position in the address, so that it can be shared or revisited. */
  private remember(): void {
    const { x, y, scale } = this.pane.target();
    const query = `x=${x.toFixed(0)}&y=${y.toFixed(0)}&s=${scale.toPrecision(4)}`;
    const { run, key } = this.about;
    history.replaceState(null, "", `#/slide/${run}/${key}?${query}`);
  }

  private showPlace(pane: Pane, event: PointerEvent): void {
    const { x, y } = pane.at(event);
    const { mpp } = this.about;
    const millimetres = mpp === null ? "" : ` (${((x * mpp) / 1000).toFixed(2)}, ${((y * mpp) / 1000).toFixed(2)} mm)`;
    this.place.textContent = `x ${Math.floor(x)}, y ${Math.floor(y)}${millimetres}`;
  }

  private magnify(value: number): void {
    const { mpp } = this.about;
    if (mpp === null) return;
    const { x, y } = this.pane.target();
    this.pane.goTo(x, y, (mpp * value) / 10);
  }

  private markMagnification(view: View): void {
    const { mpp } = this.about;
    if (mpp === null) return;
    const now = magnification(mpp / view.scaleX);
    for (const [value, button] of this.magnifications) {
      button.setAttribute("aria-pressed", String(Math.abs(now / value - 1) < 0.02));
    }
  }

  // -- the panel ----------------------------------------------------------------------------------------------------

  private fillPanel(half: Half): void {
    const { about } = this;
    const parts: HTMLElement[] = [];
    if (about.heatmap !== null) parts.push(this.heatmapControls());
    if (about.layers.length > 0 || about.image !== null) parts.push(this.maskControls());
    if (about.detections !== null) {
      const layer = new DetectionLayer(about, half.pane, (error) => this.report(error));
      half.pane.add(layer);
      this.detections = new DetectionPanel(about, half.pane, layer, (text) => this.say(text), (error) => this.report(error));
      parts.push(this.detections.box);
      half.pane.onClick((place, view) => void this.detections?.choose(place, view));
    } else {
      half.pane.onClick(() => undefined);
    }
    if (about.others.length > 0) parts.push(this.compareControls());
    parts.push(this.facts());
    this.panel.replaceChildren(...parts);
    this.drawLegend();
  }

  private heatmapControls(): HTMLElement {
    const { look, about } = this;
    const redraw = (): void => {
      this.drawLegend();
      for (const half of this.halves) half.heatmap.show(this.lookFor(half.about)).catch((error: unknown) => this.report(error));
    };
    const value = look.selected === undefined ? NOTHING : look.selected === null ? PREDICTED : `class ${look.selected}`;
    const option = (name: string, text: string): HTMLOptionElement =>
      element("option", { value: name, selected: name === value }, text);
    const select = element(
      "select",
      {
        onchange: () => {
          look.selected = select.value === NOTHING ? undefined : select.value === PREDICTED ? null : select.value.slice(6);
          if (select.value !== NOTHING) this.lastClass = select.value;
          redraw();
        },
      },
      option(NOTHING, "none"),
      about.classes.length > 0 && option(PREDICTED, "predicted class"),
      ...about.maps.map((map) => option(`class ${map.name}`, map.name)),
    );
    this.controls.map = select;
    const slider = (label: string, current: number, set: (value: number) => void): HTMLElement => {
      const text = element("output", {}, percent(current));
      const input = element("input", {
        type: "range",
        min: 0,
        max: 1,
        step: 0.01,
        value: current,
        oninput: () => {
          set(Number(input.value));
          text.textContent = percent(Number(input.value));
          redraw();
        },
      });
      return field(label, input, text);
    };
    const colours = element(
      "select",
      {
        onchange: () => {
          look.colourMap = colours.value;
          redraw();
        },
      },
      ...Object.keys(this.overview.colour_maps).map((name) => element("option", { selected: name === look.colourMap }, name)),
    );
    return element(
      "fieldset",
      {},
      element("legend", {}, "Heatmap"),
      field("Show", select),
      slider("Opacity", look.opacity, (value) => (look.opacity = value)),
      slider("Threshold", look.threshold, (value) => (look.threshold = value)),
      field("Colours", colours),
      checkbox("Smooth", look.smooth, (checked) => {
        look.smooth = checked;
        redraw();
      }),
      checkbox("Tissue only", look.onTissueOnly, (checked) => {
        look.onTissueOnly = checked;
        redraw();
      }),
      this.legend,
    );
  }

  private drawLegend(): void {
    const { look, about } = this;
    if (look.selected === undefined) {
      this.legend.replaceChildren();
    } else if (look.selected === null) {
      this.legend.replaceChildren(
        element(
          "table",
          {},
          element("tbody", {}, ...about.classes.map((finding) =>
            element(
              "tr",
              {},
              element("th", { scope: "row" }, swatch(finding.colour), finding.name),
              element("td", { class: "num" }, percent(finding.share)),
              element("td", { class: "num" }, area(finding.area_mm2)),
            ),
          )),
        ),
        element("p", { class: "note" }, "Share and area of the tissue where the class is predicted. The stronger the colour, the more probable the class."),
      );
    } else {
      const table = this.overview.colour_maps[look.colourMap]!;
      const canvas = element("canvas", { width: 256, height: 1, class: "ramp", "aria-hidden": "true" });
      const context = canvas.getContext("2d")!;
      const image = context.createImageData(256, 1);
      for (let i = 0; i < 256; i++) {
        image.data.set(table.slice(3 * i, 3 * i + 3), 4 * i);
        image.data[4 * i + 3] = i / 255 < look.threshold ? 0 : 255;
      }
      context.putImageData(image, 0, 0);
      this.legend.replaceChildren(
        element("p", {}, about.classes.length > 0 ? `Probability of ${look.selected}` : `Highest ${look.selected} score in each patch`),
        canvas,
        element("p", { class: "ends" }, element("span", {}, "0 %"), element("span", {}, "50 %"), element("span", {}, "100 %")),
      );
    }
  }

  private maskControls(): HTMLElement {
    const boxes = this.about.layers.map(({ name, colour }) => {
      const made = checkbox(LAYER_TITLES[name] ?? name, false, () => this.applyMasks());
      made.append(swatch(colour));
      made.querySelector("input")!.dataset.layer = name;
      if (name === "tissue") this.controls.tissue = made.querySelector("input")!;
      return made;
    });
    const grey = checkbox("Greyscale slide", false, (checked) => this.halves.forEach(({ pane }) => pane.inGrey(checked)));
    this.controls.grey = grey.querySelector("input")!;
    return element("fieldset", {}, element("legend", {}, "Tissue and artefacts"), ...boxes, grey);
  }

  private applyMasks(): void {
    const chosen = new Set(
      [...this.panel.querySelectorAll<HTMLInputElement>("input[data-layer]")].filter((box) => box.checked).map((box) => box.dataset.layer),
    );
    for (const half of this.halves) {
      for (const mask of half.masks) mask.show(chosen.has(mask.name)).catch((error: unknown) => this.report(error));
    }
  }

  private compareControls(): HTMLElement {
    const choice = element(
      "select",
      { onchange: () => void this.compare(choice.value).catch((error: unknown) => this.report(error)) },
      element("option", { value: NOTHING }, "none"),
      ...this.about.others.map((other, index) => element("option", { value: String(index) }, `${other.name}: ${other.model}`)),
    );
    return element("fieldset", {}, element("legend", {}, "Side by side"), field("Compare with", choice));
  }

  private facts(): HTMLElement {
    const { about } = this;
    const row = (name: string, value: string): HTMLElement =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value));
    return element(
      "fieldset",
      {},
      element("legend", {}, "Slide"),
      element(
        "table",
        { class: "facts" },
        element(
          "tbody",
          {},
          row("Model", about.model),
          about.prediction_set === null ? null : row("Prediction set", about.prediction_set.join(", ") || "empty"),
          about.out_of_domain === null ? null : row("Out of distribution", about.out_of_domain ? "yes: unlike the training data" : "no"),
          row("Tissue", area(about.tissue_mm2)),
          row("Patches", whole(about.patches)),
          row("Scale", about.mpp === null ? "unknown" : `${about.mpp.toPrecision(3)} µm/px`),
          row("Size", `${whole(about.width ?? 0)} × ${whole(about.height ?? 0)} px`),
          row("File", about.path),
        ),
      ),
    );
  }

  // -- keys -----------------------------------------------------------------------------------------------------------

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || this.help.open) return;
    const typing = target.matches("input:not([type=checkbox]), select, textarea");
    if (event.key === "Escape") {
      if (typing) this.pane.box.focus();
      else location.hash = "#/";
      return;
    }
    if (typing) return;
    const done = this.act(event.key);
    if (done) event.preventDefault();
  }

  private act(key: string): boolean {
    const step = 0.25;
    const toggle = (box: HTMLInputElement | undefined): boolean => {
      box?.click();
      return box !== undefined;
    };
    const magnified = MAGNIFICATIONS[Number(key) - 1];
    if (magnified !== undefined) return this.magnify(magnified), true;
    switch (key) {
      case "ArrowLeft":
        return this.pane.panBy(-step, 0), true;
      case "ArrowRight":
        return this.pane.panBy(step, 0), true;
      case "ArrowUp":
        return this.pane.panBy(0, -step), true;
      case "ArrowDown":
        return this.pane.panBy(0, step), true;
      case "+":
      case "=":
        return this.pane.zoomBy(1.5), true;
      case "-":
        return this.pane.zoomBy(1 / 1.5), true;
      case "0":
        return this.pane.fit(), true;
      case "h":
        return this.chooseMap(this.controls.map?.value === NOTHING ? this.lastClass : NOTHING);
      case "c":
        return this.nextClass();
      case "t":
        return toggle(this.controls.tissue);
      case "g":
        return toggle(this.controls.grey);
      case "?":
        return this.help.showModal(), true;
      default:
        return this.detections?.act(key) ?? false;
    }
  }

  private chooseMap(value: string): boolean {
    const select = this.controls.map;
    if (!select) return false;
    select.value = value;
    select.dispatchEvent(new Event("change"));
    this.say(`Heatmap: ${select.selectedOptions[0]?.textContent ?? ""}`);
    return true;
  }

  private nextClass(): boolean {
    const select = this.controls.map;
    if (!select) return false;
    const count = select.options.length;
    const next = select.selectedIndex + 1 >= count ? 1 : Math.max(1, select.selectedIndex + 1);
    return this.chooseMap(select.options[next]!.value);
  }
}

/** Counts, and the review of the selected detection. */
class DetectionPanel {
  readonly box: HTMLElement;
  private readonly counts = element("table", { class: "facts counts" });
  private readonly card = element("div", { class: "detection" });
  private readonly visible: HTMLInputElement;
  private readonly undecided: HTMLInputElement;
  private count: api.Count;
  private current: api.Detection | null = null;
  private busy: Promise<void> = Promise.resolve();

  constructor(
    private readonly about: api.About,
    private readonly pane: Pane,
    private readonly layer: DetectionLayer,
    private readonly say: (text: string) => void,
    private readonly failed: (error: unknown) => void,
  ) {
    const detections = about.detections!;
    this.count = detections.count;
    const visible = checkbox("Show (d)", true, (checked) => {
      layer.visible = checked;
      layer.refresh();
    });
    this.visible = visible.querySelector("input")!;
    const undecided = checkbox("Step through unreviewed detections only", false, () => undefined);
    this.undecided = undecided.querySelector("input")!;
    // There may be very many below the threshold; they are shown on request.
    layer.least = detections.threshold;
    const text = element("output", {}, percent(detections.threshold));
    const least = element("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.01,
      value: detections.threshold,
      oninput: () => {
        layer.least = Number(least.value);
        text.textContent = percent(layer.least);
        layer.refresh();
      },
    });
    const button = (label: string, title: string, call: () => void): HTMLButtonElement =>
      element("button", { type: "button", title, onclick: call }, label);
    this.box = element(
      "fieldset",
      { class: "detections" },
      element("legend", {}, "Detections"),
      this.counts,
      visible,
      field("Min. score", least, text),
      undecided,
      element(
        "div",
        { class: "buttons" },
        button("Previous (p)", "Previous detection", () => void this.step(true)),
        button("Next (n)", "Next detection", () => void this.step(false)),
        button("Hotspot (s)", "Show the hotspot", () => this.showHotspot()),
      ),
      this.card,
      element("p", { class: "note" }, `Detected by ${detections.model}. Detections with a score of at least ${percent(detections.threshold)} count unless rejected. Decisions are saved with the results.`),
    );
    this.drawCounts();
    this.drawCard();
  }

  act(key: string): boolean {
    switch (key) {
      case "n":
        return void this.step(false), true;
      case "p":
        return void this.step(true), true;
      case "a":
        return this.decide("accepted"), true;
      case "r":
        return this.decide("rejected"), true;
      case "u":
        return this.decide(null), true;
      case "d":
        return this.visible.click(), true;
      case "s":
        return this.showHotspot(), true;
      default:
        return false;
    }
  }

  /** Queue requests, so that keys pressed faster than the server responds are processed in order. */
  private then(work: () => Promise<void>): Promise<void> {
    this.busy = this.busy.then(work).catch((error: unknown) => this.failed(error));
    return this.busy;
  }

  private step(back: boolean): Promise<void> {
    return this.then(async () => {
      const total = this.about.detections!.total;
      const after = this.current?.row ?? (back ? total : -1);
      const found = await api.nextDetection(this.about.run, this.about.key, {
        after,
        back,
        least: this.layer.least,
        undecided: this.undecided.checked,
      });
      if (found === null) this.say(back ? "No previous detection." : "No further detections.");
      else this.look(found, true);
    });
  }

  private look(detection: api.Detection, go: boolean): void {
    this.current = detection;
    this.layer.current = detection;
    if (go) {
      const [left, top, right, bottom] = detection.box;
      const { mpp } = this.about;
      const scale = mpp === null ? 1 : (mpp * DETECTION_MAGNIFICATION) / 10;
      this.pane.goTo((left + right) / 2, (top + bottom) / 2, Math.max(scale, this.pane.target().scale), true);
    }
    this.drawCard();
    this.pane.redraw();
  }

  /** Select the detection that was clicked. */
  choose(place: { x: number; y: number }, view: View): Promise<void> {
    const row = this.layer.under(place.x, place.y, 4 / view.scaleX);
    if (row === null) return Promise.resolve();
    return this.then(async () => {
      const found = await api.nextDetection(this.about.run, this.about.key, {
        after: row - 1,
        back: false,
        least: 0,
        undecided: false,
      });
      if (found) this.look(found, false);
    });
  }

  private decide(verdict: api.Verdict): void {
    void this.then(async () => {
      if (this.current === null) {
        this.say("Select a detection first: press n for the next one, or click one.");
        return;
      }
      const { detection, count } = await api.decide(this.about.run, this.about.key, this.current.row, verdict);
      this.count = count;
      this.layer.hotspot = count.hotspot;
      this.drawCounts();
      this.look(detection, false);
      this.layer.refresh();
      const done = verdict ?? "reset to unreviewed";
      this.say(`Detection ${detection.row + 1} ${done}. Count: ${whole(count.total)}.`);
    });
  }

  private showHotspot(): void {
    const spot = this.count.hotspot;
    if (spot === null) {
      this.say("This slide has no hotspot.");
      return;
    }
    const view = this.pane.view();
    const scale = 0.85 * Math.min(view.width / (2 * spot.half_width), view.height / (2 * spot.half_height));
    this.pane.goTo(spot.x, spot.y, scale);
  }

  private drawCounts(): void {
    const { count } = this;
    const row = (name: string, value: string, id: string): HTMLElement =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "num", "data-count": id }, value));
    const spot = count.hotspot;
    const interval = spot?.per_mm2_interval.map((value) => value.toFixed(1)).join(" to ");
    this.counts.replaceChildren(
      element(
        "tbody",
        {},
        row("Counted", whole(count.total), "total"),
        row("Per mm² of tissue", density(count.per_mm2), "per-mm2"),
        row("Hotspot", spot === null ? "–" : `${whole(spot.count)} in ${spot.area_mm2.toPrecision(4)} mm²${tissueOf(spot)}`, "hotspot"),
        row("Hotspot density", spot === null ? "–" : `${density(spot.per_mm2)} (95 % CI ${interval})`, "hotspot-per-mm2"),
        row("Accepted", whole(count.accepted), "accepted"),
        row("Rejected", whole(count.rejected), "rejected"),
        row("All detections", whole(count.detections), "detections"),
      ),
    );
  }

  private drawCard(): void {
    const { current } = this;
    if (current === null) {
      this.card.replaceChildren(element("p", { class: "note" }, "No detection selected."));
      return;
    }
    const kind = this.about.detections!.classes[current.kind];
    const state = current.verdict ?? (current.counted ? "counted" : "not counted");
    const button = (label: string, verdict: api.Verdict): HTMLButtonElement =>
      element(
        "button",
        { type: "button", "aria-pressed": current.verdict === verdict, onclick: () => this.decide(verdict) },
        label,
      );
    this.card.replaceChildren(
      element("p", {}, element("b", {}, `No. ${whole(current.row + 1)}`), ` ${kind?.name ?? ""}, score ${percent(current.score)}: `, element("b", { "data-verdict": current.verdict ?? "none" }, state)),
      element("div", { class: "buttons" }, button("Accept (a)", "accepted"), button("Reject (r)", "rejected"), element("button", { type: "button", onclick: () => this.decide(null) }, "Undo (u)")),
    );
  }
}

/** What of the hotspot's window is tissue, which its density refers to. */
function tissueOf(spot: api.Hotspot): string {
  return spot.tissue_share === null ? "" : `, ${(spot.tissue_share * spot.area_mm2).toPrecision(3)} mm² of it tissue`;
}
