"use strict";
for (const time of document.querySelectorAll("time")) {
  const at = new Date(time.dateTime);
  time.title = time.textContent;
  time.textContent = at.toLocaleString();
}
const here = new URL(location.href);
const cancel = document.getElementById("cancel");
if (cancel) {
  cancel.hidden = false;
  cancel.addEventListener("click", async () => {
    if (!confirm("Cancel this order?")) return;
    cancel.disabled = true;
    const order = new URL(here);
    order.pathname = order.pathname.replace(/\/status\/?$/, "");
    const told = document.getElementById("told");
    try {
      const answer = await fetch(order, { method: "DELETE", headers: { Accept: "application/json" } });
      if (answer.ok) return location.reload();
      told.textContent = (await answer.json()).detail || "It could not be cancelled.";
    } catch {
      told.textContent = "The service did not answer; try again.";
    }
    cancel.disabled = false;
  });
}
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const follow = async (etag) => {
  for (let failures = 0; ; ) {
    try {
      const headers = { Accept: "application/json", Prefer: "wait=25" };
      if (etag) headers["If-None-Match"] = etag;
      const answer = await fetch(here, { headers, cache: "no-store" });
      if (answer.ok || [401, 403, 404, 410].includes(answer.status)) return location.reload();
      failures = answer.status === 304 ? 0 : failures + 1;
      const asked = answer.headers.has("Preference-Applied") ? 0.2 : Number(answer.headers.get("Retry-After")) || 2;
      await pause(Math.min(60, asked * 2 ** Math.min(failures, 5)));
    } catch {
      failures += 1;
      await pause(Math.min(60, 2 ** failures));
    }
  }
};
if ("open" in document.body.dataset) follow(document.body.dataset.tag);
