// Sorting, filtering, copying and drawing. Without scripts the page still has every table and every CSV.
"use strict";

function sortValue(cell) {
  const given = cell.dataset.sort;
  if (given !== undefined) return given === "" ? null : Number(given);
  return cell.textContent.trim();
}

function sortTable(table, index, ascending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const direction = ascending ? 1 : -1;
  rows.sort((one, other) => {
    // What must not be ranked stays below, and what isn't known below what is.
    const sunk = one.classList.contains("sunk") - other.classList.contains("sunk");
    if (sunk) return sunk;
    const [a, b] = [sortValue(one.cells[index]), sortValue(other.cells[index])];
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a === b ? 0 : (a < b ? -1 : 1) * direction;
    return String(a).localeCompare(String(b), undefined, { numeric: true }) * direction;
  });
  body.append(...rows);
}

function makeSortable(table) {
  const headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach((heading, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortTable(table, index, ascending);
    });
  });
}

function makeFilter(input) {
  const rows = Array.from(document.getElementById(input.dataset.filters).tBodies[0].rows);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

function makeCopy(button) {
  button.hidden = false;
  const code = button.parentElement.querySelector("code");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // no clipboard here: selected, ready to be copied by hand
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

async function drawCharts() {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const drawn = Object.entries(specs).map(([name, spec]) =>
    window.vegaEmbed(document.getElementById(`chart-${name}`), spec, {
      renderer: "svg", // text and axes take their colours from the style sheet: light, dark and print alike
      actions: { export: true, source: false, compiled: false, editor: false },
    }),
  );
  await Promise.all(drawn);
  document.documentElement.dataset.charts = String(drawn.length);
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("input[data-filters]").forEach(makeFilter);
document.querySelectorAll("button.copy").forEach(makeCopy);
window.addEventListener("hashchange", openTarget);
openTarget();
drawCharts();
