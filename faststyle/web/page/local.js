// A page that is opened as a file may load neither modules nor networks. This plain script says so.
if (location.protocol === "file:") {
  document.getElementById("error").textContent =
    "This page must come from a web server, even one on this machine: run " +
    "“python -m http.server” in its folder, and open http://localhost:8000.";
}
