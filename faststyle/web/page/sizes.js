// Arithmetic of picture sizes, in pixels.

/** Return [width, height] scaled down, if needed, so that no side is longer than `longest`. */
export function fitted(width, height, longest) {
  return scaled(width, height, Math.min(1, longest / Math.max(width, height)));
}

/** Return [width, height] in the same proportions, with the area of a square of this side. */
export function withArea(width, height, side) {
  return scaled(width, height, side / Math.sqrt(width * height));
}

/** Return [width, height] scaled down, if needed, to at most `most` pixels. */
export function withAtMost(width, height, most) {
  return scaled(width, height, Math.min(1, Math.sqrt(most / (width * height))));
}

function scaled(width, height, factor) {
  return [width, height].map((side) => Math.max(1, Math.floor(side * factor + 1e-6)));
}

// Sides of the square of the camera's picture, from which `LiveSize` chooses.
const LADDER = [128, 160, 192, 224, 256, 320, 384, 448, 512];
const WANTED_MS = 60; // a frame, for about 16 a second
const FRAMES = 6; // that are timed before the size changes

/** Find the largest size at which the camera's picture is still fluent. */
export class LiveSize {
  constructor(side = 256) {
    this.side = side;
    this.times = [];
  }

  /** Take the milliseconds of a frame into account. The first one at a new size does not count. */
  add(milliseconds) {
    this.times.push(milliseconds);
    if (this.times.length <= FRAMES) return;
    const median = this.times.slice(1).sort((a, b) => a - b)[FRAMES >> 1];
    // The time grows with the area. It must promise well before the size goes up, or it would go
    // up and down for ever.
    const possible = this.side * Math.sqrt(WANTED_MS / median);
    const fitting = LADDER.filter((side) => side <= possible);
    const best = fitting.at(-1) ?? LADDER[0];
    if (best < this.side || best * 0.85 > this.side) this.side = best;
    this.times = [];
  }
}
