// The camera: its latest frame is painted, again and again. Frames that come meanwhile are dropped.

import { withArea } from "./sizes.js";
import { resized } from "./stage.js";

const WINDOW = 2000; // milliseconds over which the rate is counted

const REFUSALS = {
  NotAllowedError: "The camera was refused. Allow it for this page in the browser’s settings.",
  NotFoundError: "There is no camera on this device.",
  NotReadableError: "The camera cannot be used: another program may have it.",
};

export class Camera {
  constructor() {
    this.video = Object.assign(document.createElement("video"), {
      muted: true,
      playsInline: true,
    });
    this.canvas = document.createElement("canvas");
    this.isOn = false;
  }

  /** Ask for the camera and start it. Throws an Error in words. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia)
      throw new Error("There is no camera here: a page needs https, or localhost, to use it.");
    const video = { facingMode: "user", width: { ideal: 640 }, height: { ideal: 480 } };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      throw new Error(REFUSALS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    const track = this.stream.getVideoTracks()[0];
    track.addEventListener("ended", () => this.onLost?.());
    // People expect to see themselves as in a mirror, but not the world.
    this.isMirrored = track.getSettings().facingMode !== "environment";
    this.video.srcObject = this.stream;
    await this.video.play();
    this.isOn = true;
  }

  stop() {
    this.isOn = false;
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }

  /** Wait for the next frame that can be seen, and return it on a canvas: the same each time. */
  async frame(side) {
    await this.next();
    const [width, height] = withArea(this.video.videoWidth, this.video.videoHeight, side);
    const context = resized(this.canvas, width, height).getContext("2d", {
      willReadFrequently: true,
    });
    context.setTransform(this.isMirrored ? -1 : 1, 0, 0, 1, this.isMirrored ? width : 0, 0);
    context.drawImage(this.video, 0, 0, width, height);
    return this.canvas;
  }

  // A page that is hidden gets no animation frames, so nothing is painted there.
  next() {
    return new Promise((resolve) => requestAnimationFrame(resolve));
  }
}

/** Counts frames a second over the last two seconds. */
export class Rate {
  constructor() {
    this.times = [];
  }

  /** Note a frame now, and return the rate, 0 before it is known. */
  add(now = performance.now()) {
    this.times.push(now);
    while (this.times[0] < now - WINDOW && this.times.length > 2) this.times.shift();
    if (this.times.length < 2) return 0;
    return (1000 * (this.times.length - 1)) / (now - this.times[0]);
  }
}
