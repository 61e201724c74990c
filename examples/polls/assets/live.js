// Fetches the page it is on again and again, and takes over what is marked with data-live.
// Without it the page is loaded anew by <noscript>.
"use strict";
const period = Number(document.currentScript.dataset.period) * 1000;

async function look() {
  // Nobody sees a hidden page: it need not cost an invocation.
  if (document.hidden) return;
  const response = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!response.ok || response.redirected) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (!now) continue;
    // An attribute alone, so that a bar grows instead of being replaced.
    const attribute = old.dataset.live;
    if (attribute) {
      old.setAttribute(attribute, now.getAttribute(attribute));
    } else if (old.innerHTML !== now.innerHTML) {
      old.innerHTML = now.innerHTML;
      old.className = now.className;
    }
  }
}

setInterval(() => look().catch(() => {}), period);
