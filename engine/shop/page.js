/** Small parts of the page. */

/** Writes a text into the element of an id. */
export function text(id, value) {
  const element = document.getElementById(id);
  if (element.textContent !== value) element.textContent = value;
}

/** Makes a button switch between light and dark; the choice is stored. */
export function fillTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");
  const write = () => (button.textContent = current() === "dark" ? "Light" : "Dark");
  const stored = localStorage.getItem("shop.theme");
  if (stored) document.documentElement.dataset.theme = stored;
  write();
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = current() === "dark" ? "light" : "dark";
    localStorage.setItem("shop.theme", document.documentElement.dataset.theme);
    write();
  });
}

/** A row of a table of bars: a name, a bar of `share` (0 to 1), and figures. */
export function barRow(name, share, figures, state = "") {
  const row = document.createElement("tr");
  const head = Object.assign(document.createElement("th"), { textContent: name, scope: "row" });
  const cell = document.createElement("td");
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.style.setProperty("--share", String(Math.max(0, Math.min(1, share))));
  cell.append(bar);
  const figure = Object.assign(document.createElement("td"), { textContent: figures, className: "figure" });
  row.className = state;
  row.append(head, cell, figure);
  return row;
}

/** An element with a text and a class. */
export function make(name, textContent, className = "") {
  return Object.assign(document.createElement(name), { textContent, className });
}
