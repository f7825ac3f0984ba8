// Asks the service how it is, shows it, and asks again; and lets somebody chat.

import { Chat } from "/assets/chat.js";
import { find } from "/assets/elements.js";
import { Overview } from "/assets/overview.js";
import { hasKey, readStatus, setKey } from "/assets/service.js";

const CALM_MS = 1000;
// While something changes that people wait for.
const ALERT_MS = 250;
const HIDDEN_MS = 15_000;

const overview = new Overview();
const chat = new Chat({ onRefused: refused, onBusy: () => soon() });
let timer = null;
let healthy = true;

function refused(error) {
  if (error.needsKey) askForKey();
}

function askForKey() {
  const dialog = find("key-dialog");
  if (dialog.open) return;
  find("key-refused").hidden = !hasKey();
  dialog.showModal();
}

function wait() {
  if (document.hidden) return HIDDEN_MS;
  // Whoever waits for an answer should see at once why it stops.
  return healthy && !chat.busy ? CALM_MS : ALERT_MS;
}

function soon(ms = 0) {
  clearTimeout(timer);
  timer = setTimeout(look, ms);
}

async function look() {
  try {
    const status = await readStatus(overview.known);
    healthy = status.health.status === "healthy";
    overview.show(status);
    chat.offer(status.models);
    chat.tellState(status.health.status);
  } catch (error) {
    if (error.needsKey) {
      askForKey();
      return;
    }
    overview.showLost();
  }
  soon(wait());
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(find("key").value.trim());
  find("key").value = "";
  find("key-dialog").close();
  soon();
});

for (const button of document.querySelectorAll(".views button")) {
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.show;
    for (const other of document.querySelectorAll(".views button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}

document.addEventListener("visibilitychange", () => soon());
look();
