// Renews the figures every few seconds, and lets a command be copied. The page is whole without it.
"use strict";

const EVERY_MS = 5000;

async function renew() {
  let now;
  try {
    const answer = await fetch("/console/status.json?lang=" + document.documentElement.lang, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    now = await answer.json();
  } catch {
    document.body.dataset.state = "lost";
    document.querySelector("[data-live=state]").textContent = document.body.dataset.lost;
    return;
  }
  if (now.shape !== document.documentElement.dataset.shape) {
    location.reload();
    return;
  }
  document.body.dataset.state = now.state;
  for (const place of document.querySelectorAll("[data-live]")) {
    const text = now.live[place.dataset.live];
    if (text !== undefined && place.textContent !== text) place.textContent = text;
  }
  const share = document.querySelector("[data-share]");
  if (share) share.value = now.credit_share;
}

setInterval(() => document.hidden || renew(), EVERY_MS);

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break; // Browsers offer it on loopback and HTTPS only.
  button.hidden = false;
  const asked = button.textContent;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.closest("figure").querySelector("code").textContent);
    button.textContent = button.dataset.done;
    setTimeout(() => (button.textContent = asked), 1500);
  });
}
