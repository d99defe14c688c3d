// Light or dark: what the reader chose last, or else what the system prefers. DataTables looks for the class `dark`.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => {
    try {
      return localStorage.getItem("hedgebench-theme");
    } catch {
      return null; // a page opened from a file may have no storage; the choice then lasts as long as the page
    }
  };
  const show = (theme) => {
    root.classList.toggle("dark", theme === "dark");
    root.classList.toggle("light", theme === "light");
  };
  show(remembered() ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => remembered() ?? show(system.matches ? "dark" : "light"));
  root.addEventListener("hedgebench-theme", (event) => {
    show(event.detail);
    try {
      localStorage.setItem("hedgebench-theme", event.detail);
    } catch {
      // see above
    }
  });
})();
