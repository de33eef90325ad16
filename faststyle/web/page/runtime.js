// onnxruntime-web: on the GPU by WebGPU where that works, else in WebAssembly, with threads where
// the page may have them. Runs in the worker.

import { download } from "./download.js";
import { isAsExpected, probe, SIDE } from "./probe.js";

const FILES = {
  webgpu: { api: "ort.webgpu.min.mjs", core: "ort-wasm-simd-threaded.asyncify" },
  wasm: { api: "ort.wasm.min.mjs", core: "ort-wasm-simd-threaded" },
};
const KEPT = 3; // networks that stay loaded

/** The runtime on one device. `run` paints; networks are loaded when they are first needed. */
export class Runtime {
  constructor(ort, device, threads, report) {
    Object.assign(this, { ort, device, threads, report });
    this.sessions = new Map(); // by the id of a style, the latest last
  }

  /** Load the runtime's files. `sizes` has bytes by file name, `report` is told of progress. */
  static async open(device, threads, sizes, report) {
    const { api, core } = FILES[device];
    const base = new URL("runtime/", self.location.href).href;
    const ort = await import(base + api).catch(() => {
      throw new Error(`${api} could not be loaded.`);
    });
    const wasm = `${core}.wasm`;
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = { mjs: `${base}${core}.mjs`, wasm: base + wasm };
    ort.env.wasm.wasmBinary = await download(base + wasm, sizes[wasm], (loaded, total) =>
      report({ what: "the runtime", loaded, total }),
    );
    return new Runtime(ort, device, threads, report);
  }

  /**
   * Return {painted, milliseconds} of a photo: tensors, (3, height, width) in [0, 1], and the time
   * without that of loading the network.
   */
  async run(style, planes, width, height) {
    const session = await this.session(style);
    const began = performance.now();
    const painted = await this.paint(session, planes, width, height);
    return { painted, milliseconds: performance.now() - began };
  }

  async paint(session, planes, width, height) {
    const photo = new this.ort.Tensor("float32", planes, [1, 3, height, width]);
    const { stylized } = await session.run({ photo });
    const painted = await stylized.getData();
    stylized.dispose();
    photo.dispose();
    return painted;
  }

  /** Return the session of a style, loaded and tried out. */
  async session(style) {
    const kept = this.sessions.get(style.id);
    this.sessions.delete(style.id);
    const session = kept ?? (await this.load(style));
    this.sessions.set(style.id, session);
    for (const [id, old] of this.sessions) {
      if (this.sessions.size <= KEPT) break;
      this.sessions.delete(id);
      await old.release();
    }
    return session;
  }

  async load(style) {
    const bytes = await download(style.file, style.bytes, (loaded, total) =>
      this.report({ what: style.title, loaded, total }),
    );
    const session = await this.ort.InferenceSession.create(new Uint8Array(bytes), {
      executionProviders: [this.device],
      graphOptimizationLevel: "all",
      logSeverityLevel: 3, // errors; that some operations run elsewhere than on the GPU is fine
    });
    const painted = await this.paint(session, probe(), SIDE, SIDE);
    if (!isAsExpected(painted, style.probe))
      throw new Error(`${this.device} paints a wrong picture of ${style.title} on this device.`);
    return session;
  }
}

/** Return whether there is a GPU for WebGPU. One that is emulated on the CPU does not count. */
export async function hasGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  } catch {
    return false;
  }
}

/** Return how many threads to use: one where the page may not share memory between them. */
export function threadsHere() {
  if (!self.crossOriginIsolated) return 1;
  const cores = navigator.hardwareConcurrency || 1;
  // Of many cores, half are often second threads of a core, or slow ones.
  return cores <= 4 ? cores : Math.min(8, Math.ceil(cores / 2));
}
