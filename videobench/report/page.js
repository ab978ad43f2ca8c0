"use strict";
// Shows the flips of the chosen class and data set, and counts them.
const panels = [...document.querySelectorAll(".flip-panel")];
const byClass = document.getElementById("by-class");
const bySet = document.getElementById("by-set");
const shown = document.getElementById("shown");

function filter() {
  let count = 0;
  for (const panel of panels) {
    const fits = (value, wanted) => wanted === "" || value === wanted;
    panel.hidden = !(fits(panel.dataset.class, byClass.value) && fits(panel.dataset.set, bySet.value));
    count += panel.hidden ? 0 : 1;
  }
  shown.textContent = `${count} of ${panels.length} shown`;
}

if (byClass && bySet && shown) {
  byClass.addEventListener("change", filter);
  bySet.addEventListener("change", filter);
  filter();
}
