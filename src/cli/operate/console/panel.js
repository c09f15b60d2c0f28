"use strict";
// The orders' half of the console. What it uses comes from the console's own script.
{
  const STATUSES = ["accepted", "processing", "completed", "failed", "cancelled"];
  /** A command that sends an order, to paste. */
  function curl(ingress) {
    let body = ingress.sample ?? "{}";
    try { body = JSON.stringify(JSON.parse(body)); } catch { /* It is sent as it is. */ }
    return `curl -i ${location.origin}${ingress.trigger.path} -H 'Content-Type: application/json' -d '${body.replaceAll("'", "'\\''")}'`;
  }
  const orderLink = (order) => h("a", { href: `#orders/${order.trackingId}`, "data-key": `order-${order.trackingId}` }, order.orderId || order.trackingId);
  const age = (text) => duration(Math.max(0, Date.now() - Date.parse(text)));

  async function change(action, ids) {
    const { results } = await act(`panel/orders/${action}`, { ids });
    search = {};
    const texts = [...new Set(results.map((result) => result.text))];
    return results.length === 1 ? texts[0] : `${results.filter((result) => result.done).length} of ${results.length}: ${texts.join("; ")}`;
  }

  // What was asked for outlives a look at one order. A search is read when a person asks, and not again at an event: it costs the store much.
  const asked = { status: "", q: "" };
  let search = {};
  async function found() {
    if (!asked.q) return read("panel/orders", asked);
    const mine = search;
    if (!mine.told) mine.told = await read("panel/orders", asked).catch((error) => ({ problem: error.message }));
    return mine.told;
  }

  async function openOrders(place) {
    const { functions } = await read("functions");
    const ingress = functions.find((one) => one.name === "OrderIngress" && one.trigger.kind === "http");
    place.append(h("h1", null, "Orders"));
    const counts = h("div");
    place.append(counts);
    const q = h("input", { type: "search", value: asked.q, size: 38, "data-key": "q", placeholder: "A-1001" });
    const filter = h("select", { "data-key": "status", change: () => { asked.status = filter.value; search = {}; refresh(); } },
      ["", ...STATUSES].map((word) => h("option", { value: word, selected: word === asked.status }, word || "any status")));
    const ask = () => { asked.q = q.value.trim(); search = {}; };
    // The browser's button empties the field; the Enter key submits the form.
    q.addEventListener("search", () => { if (q.value === "" && asked.q) { ask(); refresh(); } });
    place.append(h("form", { role: "search", submit: does(async () => { ask(); }) },
      h("label", null, "Order, customer or tracking id", q), h("label", null, "Status", filter), h("button", { type: "submit" }, "Search"),
      button("Retry the failed ones shown", "retry-all", async () => {
        const ids = list.failed.slice(0, 100);
        if (ids.length === 0) return "No failed order is shown.";
        if (!confirm(`Send ${ids.length} failed ${ids.length === 1 ? "order" : "orders"} again?`)) return null;
        return change("retry", ids);
      })));
    const list = { failed: [] };
    const draw = part(place, async () => {
      const { readAt, ...told } = await found();
      // The moment of a reading matters once it is not now.
      const isOld = asked.q || Date.now() - Date.parse(readAt) > 10_000;
      // The age of the oldest order grows without a change.
      return { ...told, readAt: isOld && readAt, isSearch: asked.q !== "", tick: !asked.q && told.oldestOpen && Math.floor(Date.now() / 5000) };
    }, (told) => {
      const again = told.isSearch && button("Read again", "read-again", async () => { search = {}; });
      if (told.problem) {
        list.failed = [];
        return h("div", { class: "bar" }, h("span", { class: "failed" }, told.problem), again);
      }
      list.failed = told.orders.filter((order) => order.status === "failed").map((order) => order.trackingId);
      redraw(counts, h("ul", { class: "counts" }, STATUSES.map((word) => h("li", null, h("b", { class: told.counts[word] ? word : "soft" }, String(told.counts[word] ?? 0)), word)),
        h("li", null, h("b", null, told.oldestOpen ? age(told.oldestOpen) : "–"), "oldest open order")));
      const notes = [];
      if (!told.isAll) notes.push(`The numbers are of the newest ${told.lookedAt} orders.`);
      if (told.unreadable > 0) notes.push(`${told.unreadable} records cannot be read: see waybill verify.`);
      if (told.orders.length >= told.most) notes.push(`Only ${told.most} orders are shown: search, or choose a status.`);
      const isEmpty = told.lookedAt === 0 && told.unreadable === 0;
      return [
        told.readAt && h("div", { class: "bar soft" }, h("span", null, "Read at ", moment(told.readAt)), again),
        isEmpty && h("div", { class: "empty" }, h("p", null, "There is no order yet."), ingress && [
          h("p", null, "Send one:"), h("pre", { tabIndex: 0 }, curl(ingress)), h("p", null, "or ", h("a", { href: "#functions/OrderIngress" }, "run OrderIngress"), " here.")]),
        !isEmpty && told.orders.length === 0 && h("p", { class: "empty" }, told.isSearch ? "No order matches. A number or a customer is found by its whole text, with the same capitals, a tracking id by its beginning; records of ended orders are kept for a limited time." : "No order has this status."),
        told.orders.length > 0 && table("Orders", ["Order", "Customer", "Status", ["Try", "number"], "Submitted", "Changed", "Error or stage", "Tracking id"], told.orders.map((order) => [
          orderLink(order), order.customerId,
          [status(order.status), order.cancelRequested && order.status === "processing" ? " cancel requested" : null],
          order.attempt, moment(order.submittedAt), moment(order.updatedAt),
          order.error && order.status !== "completed" ? h("span", { class: order.status === "failed" ? "failed" : "" }, order.error) : order.status === "processing" ? `${order.progress} % ${order.stage ?? ""}` : "",
          h("span", { class: "id soft" }, order.trackingId.slice(0, 8)),
        ])),
        notes.map((note) => h("p", { class: "soft" }, note)),
      ];
    });
    return draw;
  }

  function openOrder(place, id) {
    const title = h("h1", null, "Order");
    place.append(h("p", null, h("a", { href: "#orders" }, "All orders")), title);
    const load = async () => {
      const order = await read(`panel/orders/${encodeURIComponent(id)}`);
      const about = (await invocations()).filter((one) => one.ids.includes(order.trackingId));
      return { order, about, ...await read("messages", { contains: order.trackingId }) };
    };
    return part(place, load, ({ order, about, messages }) => {
      title.textContent = `Order ${order.orderId || order.trackingId}`;
      let before = order.submittedAt;
      return [
        h("div", { class: "bar" },
          order.canRetry && button("Retry", "retry", () => change("retry", [order.trackingId])),
          order.canCancel && button("Cancel the order", "cancel", async () => confirm("Cancel this order?") ? change("cancel", [order.trackingId]) : null, "bad")),
        order.message && order.status !== "completed" && h("div", { class: "error" }, h("p", null, order.status === "processing" && "The last try that failed: ", h("strong", { class: "failed" }, order.error), " ", order.message)),
        pairs(["Status", [status(order.status), order.status === "processing" ? ` ${order.progress} % ${order.stage ?? ""}` : ""]],
          ["Next", order.next], ["Customer", order.customerId], ["Tracking id", h("span", { class: "id" }, order.trackingId)], ["Owner", order.owner],
          ["Tries", order.tries], ["Callback", order.callback], ["Submitted", moment(order.submittedAt)], ["Ended", order.completedAt && moment(order.completedAt)],
          ["Deadline", !order.completedAt && moment(order.deadline)]),
        h("h2", null, "Timeline"),
        table("Timeline", ["Time", ["After", "number"], "Event", ["Try", "number"], "Code"], order.history.map((event) => {
          const after = duration(Date.parse(event.at) - Date.parse(before));
          before = event.at;
          return [moment(event.at), `+${after}`, status(event.event), event.attempt, event.code ?? ""];
        })),
        h("h2", null, "Its messages in the queues"),
        messages.length === 0 ? h("p", { class: "soft" }, "None is left.") : messageTable(messages),
        about.length > 0 && [h("h2", null, "Its latest invocations"), invocationTable(about.slice(0, 20))],
        order.result && [h("h2", null, "Result"), h("pre", { tabIndex: 0 }, order.result)],
        h("h2", null, "The order as it was sent"), h("pre", { tabIndex: 0 }, order.order),
        h("details", { "data-key": "record" }, h("summary", { "data-key": "record-summary" }, "The whole record"), h("pre", { tabIndex: 0 }, order.record)),
      ].flat();
    });
  }

  function openQuarantine(place) {
    place.append(h("h1", null, "Quarantine"), h("p", { class: "soft" }, "Messages that no function could act on."));
    return part(place, () => read("panel/quarantine"), ({ messages, unreadable, most }) => [
      messages.length === 0 && h("p", { class: "empty" }, "Nothing is in quarantine."),
      messages.length > 0 && table("Quarantine", ["Kept", "Reason", "Message", "Action"], messages.map((message) => [
        moment(message.keptAt), [message.reason, message.deadLetterReason && h("div", { class: "soft" }, message.deadLetterReason)],
        h("details", { "data-key": message.id }, h("summary", { "data-key": `summary-${message.id}` }, message.id), h("pre", { tabIndex: 0 }, message.text)),
        h("div", { class: "bar" },
          button("Send again", `release-${message.id}`, async () => (await act("panel/quarantine/release", { id: message.id })).text),
          button("Discard…", `discard-${message.id}`, async () => {
            const reason = prompt("Why is nothing left to do about it?");
            return reason ? (await act("panel/quarantine/discard", { id: message.id, reason })).text : null;
          }, "bad")),
      ])),
      unreadable > 0 && h("p", { class: "soft" }, `${unreadable} messages cannot be read.`),
      messages.length >= most && h("p", { class: "soft" }, `Only ${most} messages are shown.`),
    ]);
  }

  addViews([
    ["orders", { title: "Orders", panel: true, open: (place, [id]) => id ? openOrder(place, id) : openOrders(place) }],
    ["quarantine", { title: "Quarantine", panel: true, open: openQuarantine }],
  ]);
}
