// Sorting, filtering, copying and drawing. Without scripts the page still has every table and every CSV.
"use strict";

// Amounts sort by what they are, not by how they are written; what isn't known stays below, whichever the direction.
function byAmount(direction) {
  return (one, other) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    return (Number(one) - Number(other)) * direction;
  };
}
DataTable.ext.type.order["amount-asc"] = byAmount(1);
DataTable.ext.type.order["amount-desc"] = byAmount(-1);

function makeSortable(table) {
  const headings = Array.from(table.tHead.rows[0].cells);
  const where = (name) => headings.flatMap((cell, index) => (cell.classList.contains(name) ? [index] : []));
  const rank = where("rank"); // what must not be ranked stays below the rest
  const sortable = new DataTable(table, {
    autoWidth: false,
    paging: false,
    order: [],
    orderFixed: { pre: rank.map((index) => [index, "asc"]) },
    columnDefs: [
      { targets: where("number"), type: "amount" },
      { targets: rank, visible: false, searchable: false },
    ],
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    language: { zeroRecords: "No row has these words." },
  });
  // DataTables announces the direction of the first order, which is the rank's, always ascending.
  sortable.on("draw", () => {
    for (const cell of headings) {
      if (cell.classList.contains("dt-ordering-desc")) cell.setAttribute("aria-sort", "descending");
    }
  });
  const filter = document.querySelector(`input[data-filters="${table.id}"]`);
  if (filter) filter.addEventListener("input", () => sortable.search(filter.value).draw());
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

const breath = () => new Promise((resume) => setTimeout(resume)); // lets the reader's clicks and scrolling in

async function draw(place, spec) {
  await window.vegaEmbed(place, spec, {
    renderer: "svg", // text and axes take their colours from the style sheet: light, dark and print alike
    actions: false, // the data is one link away, and the caption says what the drawing shows
  });
  // A screen reader gets the figure's caption and data; a nameless symbol per mark would be in its way.
  place.querySelector("svg").setAttribute("aria-hidden", "true");
}

async function drawCharts() {
  const specs = Object.entries(JSON.parse(document.getElementById("specs").textContent));
  for (const [name, spec] of specs) {
    const place = document.getElementById(`chart-${name}`);
    const folded = place.closest("details:not([open])");
    if (folded) folded.addEventListener("toggle", () => draw(place, spec), { once: true }); // it has no width before
    else await draw(place, spec);
    await breath();
  }
  document.documentElement.dataset.charts = String(specs.length);
}

async function start() {
  document.querySelectorAll("button.copy").forEach(makeCopy);
  window.addEventListener("hashchange", openTarget);
  openTarget();
  for (const table of document.querySelectorAll("table.sortable")) {
    makeSortable(table);
    await breath();
  }
  document.documentElement.dataset.ready = "true";
  await drawCharts();
}

start();
