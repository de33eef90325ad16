// The worker: all painting is done here, so that the page stays responsive.
//
// It is sent {id, kind: "open", device, sizes} once, and then {id, kind: "paint", style, pixels,
// width, height}. It answers {id, ...result} or {id, error}, and sends {progress} in between.

import { fromPlanes, toPlanes } from "./pixels.js";
import { hasGpu, Runtime, threadsHere } from "./runtime.js";

let sizes = {};
let runtime = null;

const report = (progress) => self.postMessage({ progress });

/**
 * Open the runtime on a device, and return what it is, for the page to show. `failure` is why the
 * GPU was left.
 */
async function open(device, failure = "") {
  runtime = await Runtime.open(device, threadsHere(), sizes, report);
  return { device, threads: runtime.threads, isolated: self.crossOriginIsolated, failure };
}

/** Run `work` on the runtime. When the GPU fails, it is done again without the GPU. */
async function withFallback(work) {
  try {
    return await work();
  } catch (error) {
    if (runtime.device === "wasm") throw error;
    self.postMessage({ fallback: await open("wasm", String(error.message ?? error)) });
    return work();
  }
}

const KINDS = {
  async open(message) {
    sizes = message.sizes;
    const wanted = message.device ?? ((await hasGpu()) ? "webgpu" : "wasm");
    try {
      return await open(wanted);
    } catch (error) {
      if (wanted === "wasm") throw error;
      return open("wasm", String(error.message ?? error));
    }
  },

  async paint({ style, pixels, width, height }) {
    const planes = toPlanes(pixels);
    const run = () => runtime.run(style, planes, width, height);
    const { painted, milliseconds } = await withFallback(run);
    fromPlanes(painted, pixels);
    return { pixels, width, height, milliseconds };
  },
};

// One message after the other: a session cannot run twice at the same time.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      const result = await KINDS[data.kind](data);
      const moved = result.pixels ? [result.pixels.buffer] : [];
      self.postMessage({ id: data.id, ...result }, moved);
    } catch (error) {
      self.postMessage({ id: data.id, error: inWords(error) });
    }
  });
};

/** Return an error of the runtime as a sentence. */
function inWords(error) {
  const text = String(error?.message ?? error);
  // Of WebAssembly's memory a number is all that is left of the error.
  if (/memory|alloc|^\d+$/i.test(text))
    return "There is not enough memory for this picture. Choose less detail.";
  return text;
}
