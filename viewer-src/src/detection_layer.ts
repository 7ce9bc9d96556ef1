/** Detections in the window, as boxes or, if there are too many, as a density map; and the hotspot. */

import * as api from "./api";
import type { Layer, Pane, View } from "./pane";

const REJECTED = "#6b6b6b";
const CANDIDATE = "#f0e442";
/** Boxes smaller than this on the screen are drawn as dots. */
const SMALL_BOX = 7;
/** Boxes smaller than this have no room for dashes. */
const DASHED_BOX = 20;
/** Margin loaded around the window, as a fraction of its size, so that small movements need no request. */
const MARGIN = 0.25;
const WAIT_MS = 120;

export class DetectionLayer implements Layer {
  visible = true;
  least = 0;
  hotspot: api.Hotspot | null;
  current: api.Detection | null = null;
  private found: api.Individuals | api.Density | null = null;
  private asked = "";
  private timer: number | undefined;
  private running: AbortController | null = null;

  constructor(
    private readonly about: api.About,
    private readonly pane: Pane,
    private readonly failed: (error: unknown) => void,
  ) {
    this.hotspot = about.detections?.count.hotspot ?? null;
    pane.onMove((view) => this.ask(view));
  }

  /** Reload even if the window has not moved: a decision or the minimum score has changed. */
  refresh(): void {
    this.asked = "";
    this.pane.redraw();
  }

  private ask(view: View): void {
    if (!this.visible) return;
    const key = [view.scaleX, view.shiftX, view.shiftY, view.width, view.height, this.least].join(" ");
    if (key === this.asked) return;
    this.asked = key;
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.load(view), WAIT_MS);
  }

  private async load(view: View): Promise<void> {
    this.running?.abort();
    const running = (this.running = new AbortController());
    const [wide, high] = [view.width / view.scaleX, view.height / view.scaleY];
    const [left, top] = [-view.shiftX / view.scaleX, -view.shiftY / view.scaleY];
    const window = {
      left: Math.max(0, left - MARGIN * wide),
      top: Math.max(0, top - MARGIN * high),
      right: Math.min(this.pane.width, left + (1 + MARGIN) * wide),
      bottom: Math.min(this.pane.height, top + (1 + MARGIN) * high),
    };
    if (!(window.left < window.right && window.top < window.bottom)) return;
    try {
      this.found = await api.detections(this.about.run, this.about.key, window, this.least, running.signal);
      this.pane.redraw();
    } catch (error) {
      if (!running.signal.aborted) this.failed(error);
    }
  }

  /** The detection at a level-0 position, if the detections in the window are loaded individually. */
  under(x: number, y: number, reach: number): number | null {
    const found = this.found;
    if (!this.visible || found?.kind !== "individuals") return null;
    let best: number | null = null;
    let nearest = Infinity;
    for (let i = 0; i < found.rows.length; i++) {
      const [left, top, right, bottom] = found.boxes.subarray(4 * i, 4 * i + 4) as unknown as number[];
      const inside = x > left! - reach && x < right! + reach && y > top! - reach && y < bottom! + reach;
      const away = Math.hypot((left! + right!) / 2 - x, (top! + bottom!) / 2 - y);
      if (inside && away < nearest) [best, nearest] = [found.rows[i]!, away];
    }
    return best;
  }

  draw(context: CanvasRenderingContext2D, view: View): void {
    if (!this.visible) return;
    if (this.found?.kind === "density") this.drawDensity(context, view, this.found);
    if (this.found?.kind === "individuals") this.drawEach(context, view, this.found);
    this.drawHotspot(context, view);
    if (this.current) this.drawCurrent(context, view, this.current);
  }

  private drawDensity(context: CanvasRenderingContext2D, view: View, found: api.Density): void {
    let most = 1;
    for (const count of found.counts) most = Math.max(most, count);
    const [width, height] = [found.cell * view.scaleX, found.cell * view.scaleY];
    context.fillStyle = this.about.detections?.classes.find((kind) => kind.counted)?.colour ?? "#d55e00";
    for (let row = 0; row < found.rows; row++) {
      for (let column = 0; column < found.columns; column++) {
        const count = found.counts[row * found.columns + column]!;
        if (count === 0) continue;
        // Square root: a single detection remains visible next to many.
        context.globalAlpha = 0.12 + 0.68 * Math.sqrt(count / most);
        context.fillRect(
          (found.left + column * found.cell) * view.scaleX + view.shiftX,
          (found.top + row * found.cell) * view.scaleY + view.shiftY,
          width,
          height,
        );
      }
    }
    context.globalAlpha = 1;
  }

  private drawEach(context: CanvasRenderingContext2D, view: View, found: api.Individuals): void {
    const classes = this.about.detections?.classes ?? [];
    for (let i = 0; i < found.rows.length; i++) {
      const [left, top, right, bottom] = found.boxes.subarray(4 * i, 4 * i + 4) as unknown as number[];
      const x = left! * view.scaleX + view.shiftX;
      const y = top! * view.scaleY + view.shiftY;
      const [width, height] = [(right! - left!) * view.scaleX, (bottom! - top!) * view.scaleY];
      if (x > view.width || y > view.height || x + width < 0 || y + height < 0) continue;
      const kind = classes[found.kinds[i]!];
      const [state, counted] = [found.states[i]!, found.counted[i]! === 1];
      const colour = counted ? countedColour(kind, classes) : state === 2 ? REJECTED : kind?.counted ? CANDIDATE : kind?.colour;
      drawBox(context, x, y, width, height, { colour: colour ?? REJECTED, counted, state });
    }
  }

  private drawHotspot(context: CanvasRenderingContext2D, view: View): void {
    const spot = this.hotspot;
    if (spot === null) return;
    const [x, y] = [spot.x * view.scaleX + view.shiftX, spot.y * view.scaleY + view.shiftY];
    const [across, down] = [spot.half_width * view.scaleX, spot.half_height * view.scaleY];
    for (const [colour, width] of [["#ffffff", 5], ["#1b1b1b", 2.5]] as const) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      if (spot.shape === "rectangle") context.rect(x - across, y - down, 2 * across, 2 * down);
      else context.ellipse(x, y, across, down, 0, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  private drawCurrent(context: CanvasRenderingContext2D, view: View, current: api.Detection): void {
    const [left, top, right, bottom] = current.box;
    const room = 8;
    const x = left * view.scaleX + view.shiftX - room;
    const y = top * view.scaleY + view.shiftY - room;
    const [width, height] = [(right - left) * view.scaleX + 2 * room, (bottom - top) * view.scaleY + 2 * room];
    for (const [colour, line] of [["#ffffff", 5], ["#0b5394", 3]] as const) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.strokeRect(x, y, width, height);
    }
  }
}

function countedColour(kind: api.DetectionClass | undefined, classes: api.DetectionClass[]): string | undefined {
  return kind?.counted ? kind.colour : classes.find((other) => other.counted)?.colour;
}

/** Counted: solid line. Not counted: dashed. Accepted: with a tick. Rejected: crossed out. */
function drawBox(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  look: { colour: string; counted: boolean; state: number },
): void {
  if (Math.max(width, height) < SMALL_BOX) {
    context.fillStyle = look.colour;
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1;
    context.beginPath();
    context.arc(x + width / 2, y + height / 2, look.counted ? 3.5 : 2.5, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
    return;
  }
  context.beginPath();
  context.rect(x, y, width, height);
  if (look.state === 2) {
    context.moveTo(x, y);
    context.lineTo(x + width, y + height);
  }
  context.setLineDash(look.counted || width < DASHED_BOX ? [] : [5, 4]);
  context.strokeStyle = "rgba(255, 255, 255, .85)";
  context.lineWidth = 4;
  context.stroke();
  context.strokeStyle = look.colour;
  context.lineWidth = 2;
  context.stroke();
  context.setLineDash([]);
  if (look.state === 1) {
    const size = Math.min(12, Math.max(6, width / 3));
    context.beginPath();
    context.moveTo(x + width + 3, y + size / 2);
    context.lineTo(x + width + 3 + size / 3, y + size);
    context.lineTo(x + width + 3 + size, y);
    context.strokeStyle = "#ffffff";
    context.lineWidth = 5;
    context.stroke();
    context.strokeStyle = look.colour;
    context.lineWidth = 2.5;
    context.stroke();
  }
}
