/** Client of the viewer's server. All addresses are relative: the token is part of the page's own address. */

export interface Row {
  run: number;
  id: string;
  /** The slide's name in addresses. */
  key: string;
  patient: string | null;
  /** Address of the patient's record, below `records/`. */
  patient_record: string | null;
  status: "scored" | "abstained" | "failed";
  model: string;
  prediction: string | null;
  /** Short reason if the model abstained. */
  answer: string;
  /** Prediction set; `null` if the model has no rule for it. */
  prediction_set: string[] | null;
  out_of_domain: boolean | null;
  colour: string | null;
  confidence: number | null;
  reason: string;
  mitoses: number | null;
  /** In the hotspot. */
  mitoses_per_mm2: number | null;
  tissue_mm2: number | null;
  patches: number;
  seconds: number | null;
}

export interface Overview {
  version: string;
  notice: string;
  runs: { name: string; slides: number }[];
  slides: Row[];
  /** 256 colours each, as consecutive red, green and blue values. */
  colour_maps: Record<string, number[]>;
  /** Opacity of a predicted class at its lowest possible probability and at 1. */
  opacity: [number, number];
}

export interface ClassFinding {
  name: string;
  colour: string;
  probability: number;
  share: number;
  area_mm2: number;
}

export interface HeatmapPlace {
  rows: number;
  columns: number;
  /** Level-0 pixels. */
  left: number;
  top: number;
  stride: number;
  covered: number;
}

export interface Hotspot {
  shape: string;
  area_mm2: number;
  x: number;
  y: number;
  half_width: number;
  half_height: number;
  count: number;
  per_mm2: number;
  per_mm2_interval: [number, number];
  tissue_share: number | null;
}

export interface Count {
  detections: number;
  total: number;
  accepted: number;
  rejected: number;
  tissue_mm2: number | null;
  per_mm2: number | null;
  hotspot: Hotspot | null;
}

export interface DetectionClass {
  name: string;
  colour: string;
  counted: boolean;
}

export interface About extends Row {
  path: string;
  /** Empty for a detector. */
  classes: ClassFinding[];
  /** Maps of the heatmap. */
  maps: { name: string; colour: string }[];
  warnings: string[];
  mpp: number | null;
  width: number | null;
  height: number | null;
  report: boolean;
  others: { run: number; key: string; name: string; model: string }[];
  image: { width: number; height: number; tile: number; coarsest: number } | null;
  image_error: string | null;
  heatmap: HeatmapPlace | null;
  layers: { name: string; colour: string }[];
  detections: {
    total: number;
    threshold: number;
    model: string;
    classes: DetectionClass[];
    count: Count;
  } | null;
}

export type Verdict = "accepted" | "rejected" | null;

export interface Detection {
  row: number;
  box: [number, number, number, number];
  score: number;
  kind: number;
  verdict: Verdict;
  counted: boolean;
}

/** Detections of a window, one by one. */
export interface Individuals {
  kind: "individuals";
  rows: Uint32Array;
  boxes: Float32Array;
  scores: Float32Array;
  kinds: Uint8Array;
  states: Uint8Array;
  counted: Uint8Array;
}

/** Counts per cell, if there are too many detections. */
export interface Density {
  kind: "density";
  rows: number;
  columns: number;
  left: number;
  top: number;
  cell: number;
  counts: Uint32Array;
}

export class ServerError extends Error {}

async function answer(address: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServerError("The viewer's server does not answer. Start pathology view again.");
  }
  if (!response.ok) {
    let reason = response.statusText;
    try {
      reason = ((await response.json()) as { error: string }).error;
    } catch {
      // The server gave no reason; use the status.
    }
    throw new ServerError(reason);
  }
  return response;
}

async function json<T>(address: string, options?: RequestInit): Promise<T> {
  return (await answer(address, options)).json() as Promise<T>;
}

export const overview = (): Promise<Overview> => json("api/batch");

export const about = (run: number, key: string): Promise<About> => json(`api/about/${run}/${key}`);

export const tileAddress = (run: number, key: string, z: number, column: number, row: number): string =>
  `api/tile/${run}/${key}/${z}/${column}/${row}`;

export const fileAddress = (run: number, key: string, name: string): string => `api/file/${run}/${key}/${name}`;

export const recordAddress = (record: string): string => `records/${record}`;

export async function heatmap(run: number, key: string, name: string | null): Promise<Uint8Array> {
  const query = name === null ? "" : `?class=${encodeURIComponent(name)}`;
  return new Uint8Array(await (await answer(`api/heatmap/${run}/${key}${query}`)).arrayBuffer());
}

export async function mask(run: number, key: string, name: string): Promise<ImageBitmap> {
  const response = await answer(`api/mask/${run}/${key}/${encodeURIComponent(name)}`);
  return createImageBitmap(await response.blob());
}

export async function detections(
  run: number,
  key: string,
  window: { left: number; top: number; right: number; bottom: number },
  least: number,
  signal: AbortSignal,
): Promise<Individuals | Density> {
  const query = new URLSearchParams({ least: String(least) });
  for (const [side, value] of Object.entries(window)) query.set(side, value.toFixed(1));
  const response = await answer(`api/detections/${run}/${key}/window?${query}`, { signal });
  return unpacked(await response.arrayBuffer());
}

function unpacked(data: ArrayBuffer): Individuals | Density {
  const head = new DataView(data);
  const count = head.getUint32(4, true);
  if (head.getUint32(0, true) === 1) {
    const columns = head.getUint32(8, true);
    return {
      kind: "density",
      rows: count,
      columns,
      left: head.getFloat32(12, true),
      top: head.getFloat32(16, true),
      cell: head.getFloat32(20, true),
      counts: new Uint32Array(data, 24, count * columns),
    };
  }
  let place = 8;
  const part = <T>(make: (offset: number) => T, bytes: number): T => {
    const made = make(place);
    place += bytes;
    return made;
  };
  return {
    kind: "individuals",
    rows: part((at) => new Uint32Array(data, at, count), 4 * count),
    boxes: part((at) => new Float32Array(data, at, 4 * count), 16 * count),
    scores: part((at) => new Float32Array(data, at, count), 4 * count),
    kinds: part((at) => new Uint8Array(data, at, count), count),
    states: part((at) => new Uint8Array(data, at, count), count),
    counted: part((at) => new Uint8Array(data, at, count), count),
  };
}

export const nextDetection = (
  run: number,
  key: string,
  options: { after: number; back: boolean; least: number; undecided: boolean },
): Promise<Detection | null> => {
  const query = new URLSearchParams({ after: String(options.after), least: String(options.least) });
  if (options.back) query.set("back", "1");
  if (options.undecided) query.set("undecided", "1");
  return json(`api/detections/${run}/${key}/next?${query}`);
};

let decided = false;

/** Whether a decision was made since the last call, so that the table's counts are outdated. */
export function takeDecided(): boolean {
  const was = decided;
  decided = false;
  return was;
}

export function decide(
  run: number,
  key: string,
  row: number,
  verdict: Verdict,
): Promise<{ detection: Detection; count: Count }> {
  decided = true;
  return json(`api/decision/${run}/${key}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ row, verdict }),
  });
}
