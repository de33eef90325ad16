// Reading photos: files that are chosen, dropped or pasted.

import { fitted, withAtMost } from "./sizes.js";
import { canvasOf } from "./stage.js";

const MAX_BYTES = 64 * 2 ** 20;
export const MAX_PIXELS = 2 ** 24; // more than this, Safari gives no canvas
const MIN_SIDE = 2; // pixels

/** A photo with its name. `bitmap` has its pixels, upright. */
export class Photo {
  constructor(bitmap, name, type) {
    Object.assign(this, { bitmap, name, type });
    // Of larger photos the saved picture is smaller.
    [this.width, this.height] = withAtMost(bitmap.width, bitmap.height, MAX_PIXELS);
    this.isReduced = this.width < bitmap.width;
  }

  /** Return the photo on a canvas of this size, on white where it is transparent. */
  canvas(width, height) {
    const canvas = canvasOf(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, 0, 0, width, height);
    return canvas;
  }

  /** Return the photo on a canvas as it is painted: no side is longer than `longest`. */
  fitted(longest) {
    return this.canvas(...fitted(this.bitmap.width, this.bitmap.height, longest));
  }

  close() {
    this.bitmap.close();
  }
}

/** Return the photo in a file. Throws an Error in words for anything that is none. */
export async function readPhoto(file) {
  const name = file.name || "the pasted picture";
  if (file.size === 0) throw new Error(`${name} is empty: it has zero bytes.`);
  if (file.size > MAX_BYTES) {
    const megabytes = (bytes) => Math.ceil(bytes / 1e6);
    throw new Error(
      `${name} is too large: it has ${megabytes(file.size)} MB, ` +
        `and ${megabytes(MAX_BYTES)} MB are allowed.`,
    );
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(
      `${name} is not a picture that this browser can read. JPEG, PNG and WebP are fine.`,
    );
  }
  if (Math.min(bitmap.width, bitmap.height) < MIN_SIDE)
    throw new Error(`${name} is too small: it has ${bitmap.width} × ${bitmap.height} pixels.`);
  return new Photo(bitmap, name, file.type);
}

/**
 * Call `take` with each file that is dropped on the page, pasted, or chosen in `input`, and
 * `refuse` with a sentence for anything else that is dropped.
 */
export function watchFiles(input, target, take, refuse) {
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  const highlight = (on) => target.classList.toggle("over", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    highlight(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) highlight(false);
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    highlight(false);
    const [file] = event.dataTransfer.files;
    if (file) take(file);
    else refuse("That is no file. Save the picture on your device, and drop the file here.");
  });
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (files.length) take(files[0]);
  });
}
