/** View of one slide: OpenSeadragon with layers drawn on a canvas above it, all in level-0 pixels. */

import OpenSeadragon from "openseadragon";
import { type About, fileAddress, tileAddress } from "./api";
import { element } from "./dom";
import { length, roundLength } from "./wording";

/** Where level-0 pixels are on the screen: `screen = level0 * scale + shift`, in CSS pixels. */
export interface View {
  scaleX: number;
  scaleY: number;
  shiftX: number;
  shiftY: number;
  width: number;
  height: number;
}

export interface Layer {
  draw(context: CanvasRenderingContext2D, view: View): void;
}

/** Objective magnification equivalent to a scale in µm per pixel: 0.25 is 40x. */
export const magnification = (micrometresPerPixel: number): number => 10 / micrometresPerPixel;

const MOST_ENLARGED = 8;

// OpenSeadragon adds a style to the page unless it exists, which the page's policy forbids.  A non-HTML element with its
// name prevents this; the rule itself is in style.css.
const placeholder = document.createElementNS(null, "style");
placeholder.setAttribute("data-openseadragon-mobile-css", "true");
document.head.append(placeholder);

let panes = 0;

export class Pane {
  readonly box: HTMLElement;
  readonly width: number;
  readonly height: number;
  private readonly osd: OpenSeadragon.Viewer;
  private readonly canvas = element("canvas", { class: "layers", "aria-hidden": "true" });
  private readonly map: HTMLElement;
  private readonly scaleBar = element("div", { class: "scale-bar", "aria-hidden": "true" });
  private readonly layers: Layer[] = [];
  private waiting = false;
  private moved: ((view: View) => void)[] = [];
  private rested: (() => void)[] = [];
  private failed: ((message: string) => void)[] = [];

  constructor(
    readonly about: About,
    label: string,
    parent: HTMLElement,
  ) {
    this.width = about.image?.width ?? about.width ?? 1;
    this.height = about.image?.height ?? about.height ?? 1;
    const stage = element("div", { class: "stage" });
    this.map = element("div", { class: "map", id: `map-${++panes}`, "aria-hidden": "true" });
    this.map.style.aspectRatio = String(Math.min(3, Math.max(0.4, this.width / this.height)));
    this.box = element(
      "section",
      { class: "pane", tabindex: "0", role: "application", "aria-label": label },
      stage,
      this.canvas,
      this.map,
      this.scaleBar,
    );
    // OpenSeadragon measures its element on creation, so it must already be on the page.
    parent.append(this.box);
    this.osd = OpenSeadragon({
      element: stage,
      // Drawn without WebGL: hospital machines are often used through a remote desktop that lacks it.
      drawer: "canvas",
      showNavigationControl: false,
      tabIndex: -1,
      showNavigator: true,
      navigatorId: this.map.id,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      animationTime: 0.35,
      zoomPerScroll: 1.4,
      visibilityRatio: 0.3,
      minZoomImageRatio: 0.6,
      maxZoomPixelRatio: MOST_ENLARGED,
      imageLoaderLimit: 6,
      // The page has its own shortcuts, which work wherever the focus is.
      keyboardNavEnabled: false,
      // With hundreds of tiles in view the order of loading matters more than a smooth change between them.
      immediateRender: false,
      blendTime: 0,
      ...this.source(),
    } as OpenSeadragon.Options);
    this.osd.addHandler("update-viewport", () => this.redraw());
    this.osd.addHandler("animation", () => this.redraw());
    this.osd.addHandler("resize", () => this.redraw());
    this.osd.addHandler("animation-finish", () => this.rested.forEach((call) => call()));
    this.osd.addHandler("open", () => this.redraw());
    this.osd.addHandler("tile-load-failed", (event) => {
      const reason = (event as { message?: string }).message ?? "";
      this.failed.forEach((call) => call(reason));
    });
  }

  private source(): Partial<OpenSeadragon.Options> {
    const { image, run, key } = this.about;
    if (image === null) {
      // The slide file is missing, but its overview is stored with the results.
      return { tileSources: { type: "image", url: fileAddress(run, key, "overview.jpg") } as never };
    }
    return {
      tileSources: {
        width: image.width,
        height: image.height,
        tileSize: image.tile,
        tileOverlap: 0,
        minLevel: 0,
        maxLevel: image.coarsest,
        getTileUrl: (level: number, column: number, row: number) =>
          tileAddress(run, key, image.coarsest - level, column, row),
      } as never,
    };
  }

  onMove(call: (view: View) => void): void {
    this.moved.push(call);
  }

  onRest(call: () => void): void {
    this.rested.push(call);
  }

  onTileFailure(call: (message: string) => void): void {
    this.failed.push(call);
  }

  whenOpen(): Promise<void> {
    if (this.osd.world.getItemCount() > 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.osd.addOnceHandler("open", () => resolve());
      this.osd.addOnceHandler("open-failed", () => reject(new Error("The slide image cannot be loaded.")));
    });
  }

  add(layer: Layer): void {
    this.layers.push(layer);
  }

  /** Height of the slide in OpenSeadragon's coordinates, in which its width is 1. */
  private get tall(): number {
    const item = this.osd.world.getItemAt(0);
    return item ? item.getBounds(true).height : this.height / this.width;
  }

  view(): View {
    const viewport = this.osd.viewport;
    const origin = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(1, this.tall), true);
    const size = viewport.getContainerSize();
    return {
      scaleX: (corner.x - origin.x) / this.width,
      scaleY: (corner.y - origin.y) / this.height,
      shiftX: origin.x,
      shiftY: origin.y,
      width: size.x,
      height: size.y,
    };
  }

  /** Centre in level-0 pixels and screen pixels per level-0 pixel at the end of the current animation. */
  target(): { x: number; y: number; scale: number } {
    const viewport = this.osd.viewport;
    const centre = viewport.getCenter(false);
    return {
      x: centre.x * this.width,
      y: (centre.y / this.tall) * this.height,
      scale: (viewport.getZoom(false) * viewport.getContainerSize().x) / this.width,
    };
  }

  goTo(x: number, y: number, scale: number, immediately = false): void {
    const viewport = this.osd.viewport;
    const zoom = (scale * this.width) / viewport.getContainerSize().x;
    const centre = new OpenSeadragon.Point(x / this.width, (y / this.height) * this.tall);
    viewport.zoomTo(zoom, undefined, immediately);
    viewport.panTo(centre, immediately);
    viewport.applyConstraints(immediately);
  }

  fit(immediately = false): void {
    this.osd.viewport.goHome(immediately);
  }

  zoomBy(factor: number): void {
    this.osd.viewport.zoomBy(factor);
    this.osd.viewport.applyConstraints();
  }

  /** Move by a fraction of the window. */
  panBy(across: number, down: number): void {
    const { x, y, scale } = this.target();
    const size = this.osd.viewport.getContainerSize();
    this.goTo(x + (across * size.x) / scale, y + (down * size.y) / scale, scale);
  }

  inGrey(grey: boolean): void {
    this.box.classList.toggle("grey", grey);
  }

  redraw(): void {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  private draw(): void {
    if (this.osd.world.getItemCount() === 0) return;
    const view = this.view();
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = this.canvas.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const layer of this.layers) {
      context.save();
      layer.draw(context, view);
      context.restore();
    }
    this.drawScaleBar(view);
    // For tests and measurements: which part of the slide is visible.
    Object.assign(this.box.dataset, {
      left: (-view.shiftX / view.scaleX).toFixed(2),
      top: (-view.shiftY / view.scaleY).toFixed(2),
      scale: view.scaleX.toFixed(6),
    });
    this.moved.forEach((call) => call(view));
  }

  private drawScaleBar(view: View): void {
    const mpp = this.about.mpp;
    this.scaleBar.hidden = mpp === null;
    if (mpp === null) return;
    const micrometres = roundLength((Math.max(view.width / 5, 120) * mpp) / view.scaleX);
    this.scaleBar.style.width = `${(micrometres / mpp) * view.scaleX}px`;
    this.scaleBar.textContent = length(micrometres);
  }

  /** Level-0 position of a point on the page. */
  at(event: { clientX: number; clientY: number }): { x: number; y: number } {
    const place = this.canvas.getBoundingClientRect();
    const view = this.view();
    return {
      x: (event.clientX - place.left - view.shiftX) / view.scaleX,
      y: (event.clientY - place.top - view.shiftY) / view.scaleY,
    };
  }

  /** Call with the level-0 position of each click that is no drag. */
  onClick(call: (place: { x: number; y: number }, view: View) => void): void {
    this.osd.addHandler("canvas-click", (event) => {
      const click = event as unknown as { quick: boolean; position: { x: number; y: number } };
      this.box.focus({ preventScroll: true });
      if (!click.quick) return;
      const view = this.view();
      call(
        { x: (click.position.x - view.shiftX) / view.scaleX, y: (click.position.y - view.shiftY) / view.scaleY },
        view,
      );
    });
  }

  close(): void {
    this.osd.destroy();
    this.box.remove();
  }
}
