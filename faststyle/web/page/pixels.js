// Between pixels of a canvas, (height, width, RGBA) in 8 bits, and tensors, (RGB, height, width) in
// [0, 1].

/** Return the tensor of pixels as a Float32Array. Alpha is left out. */
export function toPlanes(pixels) {
  const count = pixels.length / 4;
  const planes = new Float32Array(3 * count);
  for (let i = 0, p = 0; i < count; i += 1, p += 4) {
    planes[i] = pixels[p] / 255;
    planes[i + count] = pixels[p + 1] / 255;
    planes[i + 2 * count] = pixels[p + 2] / 255;
  }
  return planes;
}

/** Write a tensor into pixels, rounded and opaque. Values outside of [0, 1] are cut. */
export function fromPlanes(planes, pixels) {
  const count = pixels.length / 4;
  for (let i = 0, p = 0; i < count; i += 1, p += 4) {
    // A Uint8ClampedArray rounds and cuts.
    pixels[p] = 255 * planes[i];
    pixels[p + 1] = 255 * planes[i + count];
    pixels[p + 2] = 255 * planes[i + 2 * count];
    pixels[p + 3] = 255;
  }
}
