// The page: what a person does becomes paintings.

import { Camera, Rate } from "./camera.js";
import { Engine } from "./engine.js";
import { MAX_PIXELS, readPhoto, watchFiles } from "./photo.js";
import { buildPicker, chosenStyle } from "./picker.js";
import { LiveSize } from "./sizes.js";
import { canvasOf, compose, pixelsOf, resized, saveCanvas, toCanvas } from "./stage.js";
import * as view from "./view.js";

const { elements } = view;
const KEPT = 6; // painted pictures of a photo that are kept, so that a style can be chosen again

class App {
  constructor(manifest) {
    this.styles = new Map(manifest.styles.map((style) => [style.id, style]));
    // ?device=wasm leaves the GPU alone, where it makes trouble.
    const device = new URLSearchParams(location.search).get("device") ?? undefined;
    this.engine = new Engine(manifest.sizes, device, (news) => this.hear(news));
    this.camera = new Camera();
    this.camera.onLost = () => this.stopCamera("The camera is gone.");
    this.photo = null; // the Photo
    this.source = null; // it on a canvas, as it is painted
    this.painted = new Map(); // canvases, by the id of a style
    this.turn = 0; // what was wanted in an earlier turn is not wanted any more
    this.starts = 0; // the same for the camera
    this.takes = 0; // and for files that are read
  }

  get wanted() {
    const ids = new Set([chosenStyle(elements.styles), elements.second.value]);
    return [...ids].filter(Boolean).map((id) => this.styles.get(id));
  }

  get shares() {
    return { share: elements.share.value / 100, mix: elements.mix.value / 100 };
  }

  hear({ progress, fallback }) {
    if (progress) view.showProgress(progress);
    if (fallback) view.showDevice(fallback);
  }

  /** Take a file as the photo. */
  async take(file) {
    const take = (this.takes += 1);
    view.showError("");
    let photo;
    try {
      photo = await readPhoto(file);
    } catch (error) {
      view.showError(error.message);
      return;
    }
    if (take !== this.takes) return;
    this.stopCamera();
    this.photo?.close();
    this.photo = photo;
    await this.repaint(true);
  }

  /**
   * Paint the photo in the styles that are wanted. `anew` forgets what was painted before.
   * `message` is an error to show meanwhile.
   */
  async repaint(anew = false, message = "") {
    if (!this.photo || this.camera.isOn) return;
    const turn = (this.turn += 1);
    const isWanted = () => turn === this.turn;
    if (anew) this.show(this.photo);
    view.showError(message);
    try {
      for (const style of this.wanted) {
        if (!this.painted.has(style.id)) await this.paint(style, isWanted);
        if (!isWanted()) return;
      }
    } catch (error) {
      if (!isWanted()) return;
      view.showError(error.message);
      view.showStatus("");
    }
    view.hideProgress();
    this.draw();
  }

  /** Show a new photo before it is painted. */
  show(photo) {
    this.painted.clear();
    this.source = photo.fitted(Number(elements.detail.value));
    resized(elements.picture, this.source.width, this.source.height);
    compose(elements.picture, this.source, [], this.shares);
    elements.picture.hidden = false;
    elements.invitation.hidden = true;
    elements.save.disabled = false;
  }

  /** Paint the photo in one style. */
  async paint(style, isWanted) {
    const source = this.source;
    const size = `${source.width} × ${source.height}`;
    view.showDevice(await this.engine.open());
    if (!isWanted()) return;
    view.showStatus(`Painting ${size} pixels …`, true);
    const result = await this.engine.paint(style, pixelsOf(source), isWanted);
    if (!isWanted() || !result) return;
    this.painted.set(style.id, toCanvas(result));
    const wanted = new Set(this.wanted.map((one) => one.id));
    const oldest = [...this.painted.keys()].find((id) => !wanted.has(id));
    if (this.painted.size > KEPT) this.painted.delete(oldest);
    const seconds = (result.milliseconds / 1000).toFixed(1);
    view.showStatus(`Painted at ${size} pixels in ${seconds} s.${this.largeNote()}`);
  }

  /** Return what must be said of a photo that is larger than it was painted, or saved. */
  largeNote() {
    const { photo, source } = this;
    let note = "";
    if (photo.bitmap.width > source.width)
      note += ` The photo is larger: the painting is enlarged to ${photo.width} × ${photo.height}.`;
    if (photo.isReduced)
      note += ` Pictures of more than ${Math.round(MAX_PIXELS / 1e6)} megapixels are not saved.`;
    return note;
  }

  /** Draw what is painted. Sliders need no more than this. */
  draw() {
    for (const range of [elements.mix, elements.share]) view.showPercent(range);
    elements.shares.hidden = this.wanted.length < 2;
    view.showAbout(this.wanted);
    const painted = this.wanted.map((style) => this.painted.get(style.id));
    if (this.camera.isOn || !this.photo || !painted[0]) return;
    resized(elements.picture, this.source.width, this.source.height); // the camera's size before
    compose(elements.picture, this.source, painted.filter(Boolean), this.shares);
    this.describe(this.photo.name);
  }

  describe(what) {
    const titles = this.wanted.map((style) => style.title).join(" and ");
    elements.picture.setAttribute("aria-label", `${what}, painted as ${titles}`);
  }

  async toggleCamera() {
    if (this.camera.isOn) {
      this.stopCamera();
      await this.repaint(true);
      return;
    }
    view.showError("");
    this.turn += 1;
    this.takes += 1;
    const start = (this.starts += 1);
    const isWanted = () => start === this.starts;
    elements.camera.disabled = true; // until the question for the camera is answered
    try {
      await this.camera.start();
      elements.camera.disabled = false;
      if (!isWanted()) {
        this.camera.stop();
        return;
      }
      elements.camera.setAttribute("aria-pressed", "true");
      elements.camera.textContent = "Stop the camera";
      await this.runCamera(isWanted);
    } catch (error) {
      if (isWanted()) {
        this.stopCamera(error.message);
        elements.camera.disabled = false;
        await this.repaint(false, error.message); // the photo was left unpainted for the camera
      }
    } finally {
      elements.camera.disabled = false;
    }
  }

  stopCamera(reason = "") {
    const wasOn = this.camera.isOn;
    this.starts += 1;
    this.camera.stop();
    elements.camera.setAttribute("aria-pressed", "false");
    elements.camera.textContent = "Use the camera";
    view.showRate("");
    if (reason) view.showError(reason);
    if (wasOn || reason) view.showStatus("");
  }

  /** Paint the camera's frames as long as `isWanted` says so. */
  async runCamera(isWanted) {
    const rate = new Rate();
    const size = new LiveSize();
    const canvases = [document.createElement("canvas"), document.createElement("canvas")];
    view.showDevice(await this.engine.open());
    let shown = 0;
    let frames = 0;
    while (isWanted()) {
      const frame = await this.camera.frame(Number(elements.live.value) || size.side);
      if (!isWanted()) return;
      const painted = [];
      let milliseconds = 0;
      for (const [i, style] of this.wanted.entries()) {
        const result = await this.engine.paint(style, pixelsOf(frame));
        milliseconds += result.milliseconds;
        painted.push(toCanvas(result, canvases[i]));
      }
      if (!isWanted()) return;
      this.showFrame(frame, painted);
      elements.picture.dataset.frames = frames += 1;
      size.add(milliseconds);
      const perSecond = rate.add();
      if (perSecond && performance.now() - shown > 500) {
        shown = performance.now();
        view.showRate(`${perSecond.toFixed(1)} fps at ${frame.width} × ${frame.height}`);
      }
    }
  }

  showFrame(frame, painted) {
    const { picture } = elements;
    if (picture.hidden || elements.status.textContent) {
      picture.hidden = false;
      elements.invitation.hidden = true;
      elements.save.disabled = false;
      view.hideProgress();
      view.showStatus("");
      this.describe("The camera");
    }
    resized(picture, frame.width, frame.height);
    compose(picture, frame, painted, this.shares);
  }

  /** Save the picture: a photo at its own size, the camera as it is, or was, seen. */
  async save() {
    view.showError("");
    try {
      const names = this.wanted.map((style) => style.id).join("-");
      if (this.camera.isOn || !this.photo) {
        const seen = elements.picture;
        const copy = canvasOf(seen.width, seen.height);
        copy.getContext("2d").drawImage(seen, 0, 0);
        await saveCanvas(copy, `camera-${names}.jpg`, "image/jpeg");
        return;
      }
      const { width, height, name, type } = this.photo;
      const painted = this.wanted.map((style) => this.painted.get(style.id)).filter(Boolean);
      if (painted.length < this.wanted.length) throw new Error("It is not painted yet: wait.");
      const whole = this.photo.canvas(width, height);
      const canvas = canvasOf(width, height);
      compose(canvas, whole, painted, this.shares);
      const stem = name.replace(/\.[^.]*$/, "");
      const [suffix, kind] = type === "image/jpeg" ? ["jpg", type] : ["png", "image/png"];
      await saveCanvas(canvas, `${stem}-${names}.${suffix}`, kind);
    } catch (error) {
      view.showError(error.message);
    }
  }

  async example() {
    try {
      const response = await fetch("example.jpg");
      if (!response.ok) throw new Error("The example could not be loaded.");
      const blob = await response.blob();
      await this.take(new File([blob], "example.jpg", { type: "image/jpeg" }));
    } catch (error) {
      view.showError(error.message);
    }
  }
}

function connect(app) {
  watchFiles(elements.file, elements.drop, (file) => app.take(file), view.showError);
  const on = (element, kind, what) => element.addEventListener(kind, what);
  on(elements.choose, "click", () => elements.file.click());
  on(elements.drop, "click", () => elements.invitation.hidden || elements.file.click());
  on(elements.camera, "click", () => app.toggleCamera());
  on(elements.example, "click", () => app.example());
  on(elements.save, "click", () => app.save());
  on(elements.detail, "change", () => app.repaint(true));
  for (const range of [elements.mix, elements.share]) on(range, "input", () => app.draw());
}

async function start() {
  try {
    const response = await fetch("styles.json");
    if (!response.ok) throw new Error(`The list of styles could not be loaded: ${response.status}.`);
    const manifest = await response.json();
    const app = new App(manifest);
    buildPicker(manifest.styles, elements.styles, elements.second, () => {
      app.draw();
      app.repaint();
    });
    elements.blending.hidden = manifest.styles.length < 2;
    connect(app);
    app.draw();
    document.body.dataset.ready = "yes";
  } catch (error) {
    view.showError(error.message);
  }
}

await start();
