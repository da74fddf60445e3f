// Light, dark, or as the system has it; plots follow.

const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };

/** A colour of the style sheet as the plots need it: resolved for the theme in force. */
function colour(name) {
  const probe = element("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function startTheme(redraw) {
  const button = byId("theme");
  const remembered = (() => {
    try {
      return localStorage.getItem("kvsim-theme");
    } catch {
      return null; // storage is off
    }
  })();
  const set = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = THEMES[theme];
    button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}`);
    button.value = theme;
  };
  set(remembered in THEMES ? remembered : "auto");
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    set(names[(names.indexOf(button.value) + 1) % names.length]);
    try {
      localStorage.setItem("kvsim-theme", button.value);
    } catch {
      // not remembered, then
    }
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // Paper is light.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.printing = "yes";
    document.documentElement.dataset.theme = "light";
    redraw();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.printing;
    set(button.value);
    redraw();
  });
}
