// A small test picture with a known result. Drivers of GPUs have errors, and a wrong picture must
// not be shown in silence. The expected means come from torch, at export (faststyle/web/model.py).

export const SIDE = 32;
const CELL = 8;
const MOST = 3 / 255;

/** Return the test picture as a tensor, (3, 32, 32). */
export function probe() {
  const planes = new Float32Array(3 * SIDE * SIDE);
  for (let c = 0; c < 3; c += 1)
    for (let y = 0; y < SIDE; y += 1)
      for (let x = 0; x < SIDE; x += 1)
        planes[(c * SIDE + y) * SIDE + x] = ((35 * x + 65 * y + 145 * c) % 256) / 255;
  return planes;
}

/** Return whether the means of a painted test picture over 8x8 pixels are as expected. */
export function isAsExpected(painted, expected) {
  const cells = SIDE / CELL;
  const means = new Float64Array(3 * cells * cells);
  for (let c = 0; c < 3; c += 1)
    for (let y = 0; y < SIDE; y += 1)
      for (let x = 0; x < SIDE; x += 1)
        means[(c * cells + Math.floor(y / CELL)) * cells + Math.floor(x / CELL)] +=
          painted[(c * SIDE + y) * SIDE + x] / CELL ** 2;
  // Written so that NaN fails.
  return means.every((mean, i) => Math.abs(mean - expected[i]) <= MOST);
}
