"use strict";
// Shared by the scripts of the page. Texts from the data reach the page through textContent alone.
const page = {
  widgets: {},

  // The element of a name, with attributes and children.
  make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value === true) element.setAttribute(key, "");
      else if (value !== false && value !== null) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  },

  colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  },

  gap(what, why) {
    return page.make("p", { class: "gap" }, page.make("strong", {}, `Not shown: ${what}. `), why);
  },

  // Calls draw now and whenever the reader changes between light and dark.
  onTheme(draw) {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  },

  // plotly.js, unpacked once.
  async plotly() {
    if (!page.unpacked) {
      page.unpacked = (async () => {
        const packed = document.getElementById("plotly").textContent.trim();
        const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
        const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
        const code = page.make("script");
        code.textContent = await new Response(stream).text();
        document.head.append(code);
        return window.Plotly;
      })();
    }
    return page.unpacked;
  },
};

addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll("[data-widget]")) {
    const data = JSON.parse(element.querySelector("script").textContent);
    page.widgets[element.dataset.widget](element, data).catch((error) => {
      element.append(page.gap(element.getAttribute("aria-label"), `This browser could not draw it (${error.message}).`));
    });
  }
});
