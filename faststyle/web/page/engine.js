// The page's side of the worker: a request is a promise, and one is worked on at a time.

/** What paints. `onNews` is called with {progress} and {fallback} of the worker. */
export class Engine {
  constructor(sizes, device, onNews) {
    Object.assign(this, { sizes, device, onNews });
    this.waiting = new Map(); // promises of answers, by number
    this.number = 0;
    this.opened = null;
    this.last = Promise.resolve();
  }

  /** Start the worker and load the runtime, once. Return {device, threads, isolated, failure}. */
  open() {
    this.opened ??= this.start().catch((error) => {
      this.opened = null; // so that it can be tried again
      throw error;
    });
    return this.opened;
  }

  start() {
    this.worker = new Worker("worker.js", { type: "module" });
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => this.fail(event.message || "The painter could not start.");
    return this.ask({ kind: "open", sizes: this.sizes, device: this.device });
  }

  /**
   * Return the painted {pixels, width, height, milliseconds} of an ImageData, whose pixels are
   * moved away. Return null when `isWanted` says, before it begins, that nobody needs it any more.
   */
  async paint(style, image, isWanted = () => true) {
    await this.open();
    const turn = this.last.then(() => {
      if (!isWanted()) return null;
      const { data, width, height } = image;
      return this.ask({ kind: "paint", style, pixels: data, width, height }, [data.buffer]);
    });
    this.last = turn.catch(() => {});
    return turn;
  }

  ask(message, moved = []) {
    const id = (this.number += 1);
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    this.worker.postMessage({ ...message, id }, moved);
    return answer;
  }

  receive({ id, error, ...rest }) {
    if (id === undefined) {
      if (rest.fallback) this.opened = Promise.resolve(rest.fallback);
      this.onNews(rest);
      return;
    }
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(rest);
  }

  fail(message) {
    for (const { reject } of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
    this.opened = null;
    this.worker.terminate();
  }
}
