/** Tissue (outline) and artefacts (filled), as masks over the whole slide. */

import * as api from "./api";
import type { Layer, View } from "./pane";

const FILLED = 0.55;

/** Display names of the layers; others are shown under their own name. */
export const LAYER_TITLES: Record<string, string> = {
  tissue: "Tissue (outline)",
  pen: "Pen marks",
  blur: "Out of focus",
  fold: "Fold",
  bubble: "Air bubble",
  dark: "Dark artefact",
};

export class MaskLayer implements Layer {
  visible = false;
  private picture: OffscreenCanvas | null = null;
  private loading: Promise<ImageBitmap> | null = null;

  constructor(
    private readonly about: api.About,
    readonly name: string,
    private readonly colour: string,
    private readonly changed: () => void,
  ) {}

  /** The mask: white inside, transparent outside. */
  mask(): Promise<ImageBitmap> {
    this.loading ??= api.mask(this.about.run, this.about.key, this.name);
    return this.loading;
  }

  async show(visible: boolean): Promise<void> {
    this.visible = visible;
    if (visible && this.picture === null) this.picture = this.coloured(await this.mask());
    this.changed();
  }

  private coloured(mask: ImageBitmap): OffscreenCanvas {
    const canvas = new OffscreenCanvas(mask.width, mask.height);
    const context = canvas.getContext("2d")!;
    context.drawImage(mask, 0, 0);
    if (this.name === "tissue") this.keepEdge(context, mask);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = this.colour;
    context.fillRect(0, 0, mask.width, mask.height);
    return canvas;
  }

  /** Remove the interior: the intersection of the mask shifted by one pixel in each of four directions. */
  private keepEdge(context: OffscreenCanvasRenderingContext2D, mask: ImageBitmap): void {
    const within = new OffscreenCanvas(mask.width, mask.height);
    const inner = within.getContext("2d")!;
    inner.drawImage(mask, 0, 0);
    inner.globalCompositeOperation = "destination-in";
    for (const [x, y] of [[1, 0], [-1, 0], [0, 1], [0, -1]] as const) inner.drawImage(mask, x, y);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(within, 0, 0);
  }

  draw(context: CanvasRenderingContext2D, view: View): void {
    if (!this.visible || this.picture === null) return;
    context.globalAlpha = this.name === "tissue" ? 1 : FILLED;
    context.imageSmoothingEnabled = view.scaleX * ((this.about.width ?? 1) / this.picture.width) < 1;
    const [width, height] = [(this.about.width ?? 0) * view.scaleX, (this.about.height ?? 0) * view.scaleY];
    context.drawImage(this.picture, view.shiftX, view.shiftY, width, height);
  }
}
