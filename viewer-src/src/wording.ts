/** Number formatting, with the same rules as in the reports. */

export function percent(share: number | null): string {
  if (share === null) return "–";
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share >= 0.995 && share < 1) return share < 0.9995 ? "> 99 %" : "> 99.9 %";
  return share > 0 && share < 0.0995 ? `${(share * 100).toFixed(1)} %` : `${Math.round(share * 100)} %`;
}

export function area(mm2: number | null): string {
  if (mm2 === null) return "–";
  if (mm2 > 0 && mm2 < 0.01) return "< 0.01 mm²";
  return `${mm2.toFixed(mm2 < 10 ? 2 : mm2 < 100 ? 1 : 0)} mm²`;
}

export function density(perMm2: number | null): string {
  return perMm2 === null ? "–" : `${perMm2.toFixed(perMm2 < 10 ? 2 : 1)} /mm²`;
}

export function whole(value: number): string {
  return value.toLocaleString("en-GB");
}

export function length(micrometres: number): string {
  return micrometres >= 1000 ? `${micrometres / 1000} mm` : `${micrometres} µm`;
}

/** The largest of 1, 2, 5 times a power of ten up to `longest`. */
export function roundLength(longest: number): number {
  const power = 10 ** Math.floor(Math.log10(longest));
  return [5, 2, 1].map((step) => step * power).find((value) => value <= longest) ?? power;
}
