// What the page says: errors, progress, what it is doing, and what it runs on.

const byId = (id) => document.getElementById(id);

export const elements = Object.fromEntries(
  [
    ..."about blending camera choose detail drop error example file invitation live mix notes".split(" "),
    ..."picture progress rate save second share shares status styles".split(" "),
  ].map((id) => [id, byId(id)]),
);

export function showError(message) {
  elements.error.textContent = message;
}

/** Say what the page is doing. `busy` shows it at the picture too. */
export function showStatus(message, busy = false) {
  elements.status.textContent = message;
  elements.drop.setAttribute("aria-busy", String(busy));
}

/** Show how far a download is; at its end the bar goes away. */
export function showProgress({ what, loaded, total }) {
  elements.progress.hidden = loaded >= total;
  elements.progress.value = Math.min(1, loaded / total);
  const megabytes = (total / 1e6).toFixed(1);
  if (loaded < total) showStatus(`Loading ${what}, ${megabytes} MB, once …`, true);
}

export function hideProgress() {
  elements.progress.hidden = true;
}

/** Say what the networks run on, why it is not the GPU, and how it could be faster. */
export function showDevice({ device, threads, isolated, failure }) {
  if (device === "webgpu") {
    elements.notes.textContent = "Runs on the GPU of this device.";
    return;
  }
  const plural = threads === 1 ? "thread" : "threads";
  elements.notes.textContent = `Runs on the processor of this device, with ${threads} ${plural}.`;
  if (!isolated)
    elements.notes.textContent +=
      " More are not allowed here: the server sends this page without the headers COOP and COEP.";
  if (failure) elements.notes.textContent += ` The GPU failed: ${failure.split("\n")[0]}`;
}

/** Name the styles that are chosen, with their licences. */
export function showAbout(styles) {
  const lines = styles.map(({ title, license }) => `${title}: ${license}.`);
  elements.about.textContent = lines.join(" ");
}

/** Show a range's value beside its label, and to screen readers. */
export function showPercent(range) {
  const text = `${range.value} %`;
  range.setAttribute("aria-valuetext", text);
  range.labels[0].querySelector("output").textContent = text;
}

export function showRate(text) {
  if (elements.rate.textContent !== text) elements.rate.textContent = text;
}
