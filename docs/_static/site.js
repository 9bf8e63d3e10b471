// The theme reports what it does ("[PST]: ...") on the console, where a reader looks for errors.
const log = console.log;
console.log = (...words) => {
  if (!String(words[0]).startsWith("[PST]")) log.apply(console, words);
};

addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".output_subarea"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  // The theme's arrows at the sections of a sidebar have no name.
  for (const arrow of document.querySelectorAll(".bd-sidebar-primary summary"))
    arrow.ariaLabel = `Pages of ${arrow.closest("li").querySelector("a").innerText}`;
});
