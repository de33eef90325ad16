// The picture on the page, and the one that is saved: painted pictures over each other and the
// photo.

/** Return a canvas of this size. */
export function canvasOf(width, height) {
  return resized(document.createElement("canvas"), width, height);
}

/** Give a canvas a size, and return it. One that has the size keeps its memory and its picture. */
export function resized(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return canvas;
}

/** Return all pixels of a canvas as an ImageData. */
export function pixelsOf(canvas) {
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
}

/** Return a canvas, a new one or `canvas`, that holds painted {pixels, width, height}. */
export function toCanvas({ pixels, width, height }, canvas = document.createElement("canvas")) {
  resized(canvas, width, height);
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
}

/**
 * Draw layers on a canvas that has its size already.
 *
 * `photo` and `painted` are canvases: the photo, which has no transparent places, and none, one or
 * two painted pictures of it. `share` is that of the second style, `mix` that of the painting, both in [0, 1].
 */
export function compose(canvas, photo, painted, { share, mix }) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const draw = (picture, alpha) => {
    context.globalAlpha = alpha;
    context.drawImage(picture, 0, 0, width, height);
    context.globalAlpha = 1;
  };
  if (!painted.length || mix === 0) {
    draw(photo, 1);
    return;
  }
  draw(painted[0], 1);
  if (painted.length > 1) draw(painted[1], share);
  if (mix < 1) draw(photo, 1 - mix);
}

/** Offer a canvas as a file for download. Throws an Error in words. */
export async function saveCanvas(canvas, name, type) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.95));
  if (!blob) throw new Error("There is not enough memory to save the picture at its size.");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
