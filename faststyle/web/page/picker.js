// The styles to choose from: thumbnails for the first style, a list for the second.

/** Build the thumbnails and the list from the manifest's styles. */
export function buildPicker(styles, fieldset, list, onChange) {
  const thumbnails = fieldset.querySelector(".thumbnails");
  styles.forEach((style, i) => {
    const input = Object.assign(document.createElement("input"), {
      type: "radio",
      name: "style",
      value: style.id,
      checked: i === 0,
    });
    const image = Object.assign(document.createElement("img"), {
      src: style.thumbnail,
      alt: "", // the title says it
      width: 240,
      height: 160,
    });
    const title = document.createElement("span");
    title.textContent = style.title;
    const label = document.createElement("label");
    label.append(input, image, title);
    thumbnails.append(label);
    list.append(new Option(style.title, style.id));
  });
  thumbnails.addEventListener("change", onChange);
  list.addEventListener("change", onChange);
}

/** Return the value of the style that is chosen. */
export function chosenStyle(fieldset) {
  return fieldset.querySelector("input:checked").value;
}
