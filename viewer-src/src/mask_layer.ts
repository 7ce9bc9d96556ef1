/** Tissue (its outline) and what spoils a slide (filled), as masks over the whole slide. */

import * as api from "./api";
import type { Layer, View } from "./pane";

const FILLED = 0.55;

/** Names of the layers as people say them; one that is not listed is shown under its own. */
export const LAYER_TITLES: Record<string, string> = {
  tissue: "Tissue (outline)",
  pen: "Pen or ink",
  blur: "Out of focus",
  fold: "Fold",
  bubble: "Air bubble",
  dark: "Dark dirt",
};

export class MaskLayer implements Layer {
  shown = false;
  private picture: OffscreenCanvas | null = null;
  private loading: Promise<ImageBitmap> | null = null;

  constructor(
    private readonly about: api.About,
    readonly name: string,
    private readonly colour: string,
    private readonly changed: () => void,
  ) {}

  /** The mask itself: white where it holds, else transparent. */
  mask(): Promise<ImageBitmap> {
    this.loading ??= api.mask(this.about.run, this.about.key, this.name);
    return this.loading;
  }

  async show(shown: boolean): Promise<void> {
    this.shown = shown;
    if (shown && this.picture === null) this.picture = this.coloured(await this.mask());
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

  /** Take out what lies within: the mask moved by a pixel in each of four directions, all four at once. */
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
    if (!this.shown || this.picture === null) return;
    context.globalAlpha = this.name === "tissue" ? 1 : FILLED;
    context.imageSmoothingEnabled = view.scaleX * ((this.about.width ?? 1) / this.picture.width) < 1;
    const [width, height] = [(this.about.width ?? 0) * view.scaleX, (this.about.height ?? 0) * view.scaleY];
    context.drawImage(this.picture, view.shiftX, view.shiftY, width, height);
  }
}
