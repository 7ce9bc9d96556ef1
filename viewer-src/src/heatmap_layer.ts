/** A class probability map, coloured in the browser, so that colours, threshold and opacity change immediately. */

import * as api from "./api";
import type { Layer, View } from "./pane";

export interface HeatmapLook {
  /** A class, `null` for the predicted class, `undefined` for none. */
  selected: string | null | undefined;
  colourMap: string;
  opacity: number;
  threshold: number;
  smooth: boolean;
  onTissueOnly: boolean;
}

const UNKNOWN = 255;
const MOST = 254;

const rgb = (colour: string): [number, number, number] => [
  parseInt(colour.slice(1, 3), 16),
  parseInt(colour.slice(3, 5), 16),
  parseInt(colour.slice(5, 7), 16),
];

export class HeatmapLayer implements Layer {
  private readonly fetched = new Map<string | null, Promise<Uint8Array>>();
  private picture: OffscreenCanvas | null = null;
  private tissue: ImageBitmap | null = null;
  private latest = 0;
  private readonly buffer = new OffscreenCanvas(1, 1);

  constructor(
    private readonly about: api.About,
    private readonly overview: api.Overview,
    private look: HeatmapLook,
    private readonly changed: () => void,
  ) {}

  setTissue(tissue: ImageBitmap): void {
    this.tissue = tissue;
    this.changed();
  }

  /** Change the map's appearance; resolves once it is drawn. */
  async show(look: HeatmapLook): Promise<void> {
    this.look = { ...look };
    const turn = ++this.latest;
    if (look.selected === undefined || this.about.heatmap === null) {
      this.picture = null;
    } else {
      const values = await this.values(look.selected);
      if (turn !== this.latest) return; // the selection has changed meanwhile
      this.picture = look.selected === null ? this.predicted(values) : this.oneClass(values);
    }
    this.changed();
  }

  private values(name: string | null): Promise<Uint8Array> {
    let found = this.fetched.get(name);
    if (!found) {
      found = api.heatmap(this.about.run, this.about.key, name);
      this.fetched.set(name, found);
      found.catch(() => this.fetched.delete(name));
    }
    return found;
  }

  private painted(colour: (cell: number, pixel: Uint8ClampedArray, at: number) => void): OffscreenCanvas {
    const { rows, columns } = this.about.heatmap!;
    const canvas = new OffscreenCanvas(columns, rows);
    const context = canvas.getContext("2d")!;
    const image = context.createImageData(columns, rows);
    for (let cell = 0; cell < rows * columns; cell++) colour(cell, image.data, 4 * cell);
    context.putImageData(image, 0, 0);
    return canvas;
  }

  private oneClass(values: Uint8Array): OffscreenCanvas {
    const table = this.overview.colour_maps[this.look.colourMap] ?? Object.values(this.overview.colour_maps)[0]!;
    const alpha = Math.round(255 * this.look.opacity);
    const least = this.look.threshold * MOST;
    return this.painted((cell, pixel, at) => {
      const value = values[cell]!;
      if (value === UNKNOWN || value < least) return;
      const place = 3 * Math.round((value / MOST) * 255);
      pixel[at] = table[place]!;
      pixel[at + 1] = table[place + 1]!;
      pixel[at + 2] = table[place + 2]!;
      pixel[at + 3] = alpha;
    });
  }

  private predicted(values: Uint8Array): OffscreenCanvas {
    const colours = this.about.classes.map((finding) => rgb(finding.colour));
    const [weakest, strongest] = this.overview.opacity;
    const chance = 1 / Math.max(1, colours.length);
    const cells = values.length / 2;
    return this.painted((cell, pixel, at) => {
      const index = values[cell]!;
      const colour = colours[index];
      const confidence = values[cells + cell]! / MOST;
      if (index === UNKNOWN || colour === undefined || confidence < this.look.threshold) return;
      const certainty = chance < 1 ? Math.max(0, (confidence - chance) / (1 - chance)) : 1;
      [pixel[at], pixel[at + 1], pixel[at + 2]] = colour;
      // The stronger the colour, the more probable the class, as in the reports.
      pixel[at + 3] = 255 * this.look.opacity * (weakest / strongest + (1 - weakest / strongest) * certainty);
    });
  }

  draw(context: CanvasRenderingContext2D, view: View): void {
    const place = this.about.heatmap;
    if (this.picture === null || place === null) return;
    const x = place.left * view.scaleX + view.shiftX;
    const y = place.top * view.scaleY + view.shiftY;
    const [width, height] = [place.columns * place.stride * view.scaleX, place.rows * place.stride * view.scaleY];
    if (!this.look.onTissueOnly || this.tissue === null) {
      context.imageSmoothingEnabled = this.look.smooth;
      context.drawImage(this.picture, x, y, width, height);
      return;
    }
    const { a: ratio } = context.getTransform();
    const [across, down] = [context.canvas.width, context.canvas.height];
    if (this.buffer.width !== across || this.buffer.height !== down) {
      this.buffer.width = across;
      this.buffer.height = down;
    }
    const aside = this.buffer.getContext("2d")!;
    aside.setTransform(1, 0, 0, 1, 0, 0);
    aside.globalCompositeOperation = "source-over";
    aside.clearRect(0, 0, across, down);
    aside.setTransform(ratio, 0, 0, ratio, 0, 0);
    aside.imageSmoothingEnabled = this.look.smooth;
    aside.drawImage(this.picture, x, y, width, height);
    aside.globalCompositeOperation = "destination-in";
    aside.imageSmoothingEnabled = true;
    const slide = [(this.about.width ?? 0) * view.scaleX, (this.about.height ?? 0) * view.scaleY] as const;
    aside.drawImage(this.tissue, view.shiftX, view.shiftY, ...slide);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.buffer, 0, 0);
  }
}
