// What is shown stands in the address, so that it can be linked to and the back button works.

/** What the address says, as names and texts: #trajectory=ID&filter=TEXT&... */
const address = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** The address with changes (null takes a name away). A step back undoes it unless it replaces the last one. */
function goTo(changes, { replace = false } = {}) {
  const wanted = { ...address(), ...changes };
  for (const name of Object.keys(wanted)) if (wanted[name] === null || wanted[name] === "") delete wanted[name];
  const hash = "#" + new URLSearchParams(wanted);
  if (hash === (location.hash || "#")) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  dispatchEvent(new Event("addresschange"));
}

/** Calls render with the address whenever it changes. */
function followAddress(render) {
  for (const event of ["addresschange", "popstate", "hashchange"]) addEventListener(event, () => render(address()));
}
