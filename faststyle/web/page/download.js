// Fetching a file with a figure of how far it is.

/** Return the bytes of a file as an ArrayBuffer. `report` is called with bytes so far and in all. */
export async function download(url, total, report) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error(`${nameOf(url)} could not be loaded: the connection failed.`);
  }
  if (!response.ok) throw new Error(`${nameOf(url)} could not be loaded: ${response.status}.`);
  const parts = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    report(loaded, total);
  }
  return new Blob(parts).arrayBuffer();
}

function nameOf(url) {
  return new URL(url, self.location.href).pathname.split("/").at(-1);
}
