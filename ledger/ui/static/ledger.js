// What pages gain from a script; each is readable without it. It is in the head, so that a chosen theme is there before
// anything is painted.
"use strict";
(() => {
  const root = document.documentElement;
  const keep = (theme) => { try { localStorage.setItem("theme", theme); } catch { /* private window */ } };
  const kept = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (kept() === "dark" || kept() === "light") root.dataset.theme = kept();

  const themes = () => {
    for (const button of document.querySelectorAll("[data-theme-switch]")) {
      const show = () => button.setAttribute("aria-pressed", String(isDark()));
      button.hidden = false;
      show();
      button.addEventListener("click", () => {
        root.dataset.theme = isDark() ? "light" : "dark";
        keep(root.dataset.theme);
        show();
      });
    }
  };

  // UTC stays on hover, and is what stands there without a script.
  const forms = {
    minute: { dateStyle: "medium", timeStyle: "short" },
    second: { dateStyle: "medium", timeStyle: "medium" },
    day: { dateStyle: "medium" },
  };
  const times = () => {
    for (const time of document.querySelectorAll("time[data-form]")) {
      const at = new Date(time.dateTime);
      if (!Number.isNaN(at.valueOf())) {
        time.textContent = new Intl.DateTimeFormat(undefined, forms[time.dataset.form]).format(at);
      }
    }
  };

  const copies = () => {
    for (const button of document.querySelectorAll("[data-copy]")) {
      if (!navigator.clipboard) continue;
      const label = button.textContent;
      button.hidden = false;
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(button.dataset.copy);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Select and copy it";
        }
        setTimeout(() => { button.textContent = label; }, 2000);
      });
    }
  };

  // A form of this kind answers while somebody writes. The page comes as a document, so no text becomes markup here.
  const live = () => {
    for (const form of document.querySelectorAll("form[data-live]")) {
      // By attributes: a field that is called `dataset` takes the place of the form's property of that name.
      const [path, part] = [form.getAttribute("action"), form.getAttribute("data-live")];
      let waiting = 0;
      let asked = 0;
      const ask = () => {
        const number = ++asked;
        const address = `${path}?${new URLSearchParams(new FormData(form))}`;
        const request = new XMLHttpRequest();
        request.open("GET", address);
        request.responseType = "document";
        request.addEventListener("load", () => {
          const found = request.response?.getElementById(part);
          if (number !== asked || !found) return;
          document.getElementById(part).replaceChildren(...document.importNode(found, true).childNodes);
          history.replaceState(null, "", address);
          times();
          copies();
        });
        request.send();
      };
      form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(ask, 300); });
      for (const choice of form.querySelectorAll("[data-reload]")) {
        choice.addEventListener("change", () => { clearTimeout(waiting); form.requestSubmit(); });
      }
    }
  };

  document.addEventListener("DOMContentLoaded", () => { themes(); times(); copies(); live(); });
})();
