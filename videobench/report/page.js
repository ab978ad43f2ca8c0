"use strict";
// Shows the cards of the chosen class and data set, and counts them.
const cards = [...document.querySelectorAll(".card")];
const byClass = document.getElementById("by-class");
const bySet = document.getElementById("by-set");
const shown = document.getElementById("shown");

function filter() {
  let count = 0;
  for (const card of cards) {
    const fits = (value, wanted) => wanted === "" || value === wanted;
    card.hidden = !(fits(card.dataset.class, byClass.value) && fits(card.dataset.set, bySet.value));
    count += card.hidden ? 0 : 1;
  }
  shown.textContent = `${count} of ${cards.length} shown`;
}

if (byClass && bySet && shown) {
  byClass.addEventListener("change", filter);
  bySet.addEventListener("change", filter);
  filter();
}
