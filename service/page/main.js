// Polls the status of the service, shows it, and runs the chat.

import { Chat } from "/assets/chat.js";
import { find } from "/assets/elements.js";
import { Overview } from "/assets/overview.js";
import { hasKey, readStatus, setKey } from "/assets/service.js";

const IDLE_POLL_MS = 1000;
// While an answer is streaming or the service is not healthy.
const BUSY_POLL_MS = 250;
const HIDDEN_POLL_MS = 15_000;

const overview = new Overview();
const chat = new Chat({ onError: handleError, onBusy: () => schedule() });
let timer = null;
let healthy = true;

function handleError(error) {
  if (error.needsKey) askForKey();
}

function askForKey() {
  const dialog = find("key-dialog");
  if (dialog.open) return;
  find("key-refused").hidden = !hasKey();
  dialog.showModal();
}

function pollInterval() {
  if (document.hidden) return HIDDEN_POLL_MS;
  // A user who waits for an answer sees soon why it has paused.
  return healthy && !chat.busy ? IDLE_POLL_MS : BUSY_POLL_MS;
}

function schedule(ms = 0) {
  clearTimeout(timer);
  timer = setTimeout(poll, ms);
}

async function poll() {
  try {
    const status = await readStatus(overview.lastComplete);
    healthy = status.health.status === "healthy";
    overview.show(status);
    chat.showModels(status.models);
    chat.showState(status.health.status);
  } catch (error) {
    if (error.needsKey) {
      askForKey();
      return;
    }
    overview.showUnreachable();
  }
  schedule(pollInterval());
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(find("key").value.trim());
  find("key").value = "";
  find("key-dialog").close();
  schedule();
});

for (const button of document.querySelectorAll(".views button")) {
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.show;
    for (const other of document.querySelectorAll(".views button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}

document.addEventListener("visibilitychange", () => schedule());
poll();
