// Walks through the console of `waybill local` in headless Chromium, and prints what each step showed, as one JSON object a step.
//
//     CHROMIUM=/usr/bin/chromium node console.js URL WALK
//
// SCREENSHOTS: a directory for pictures of the steps.
import { findings, launch } from "./browser.js";

const [url, walk] = process.argv.slice(2);
const browser = await launch();
const page = await browser.newPage();
let complaints = [];
const asked = new Set();
let answerDialog = "";
page.on("console", (message) => ["error", "warn"].includes(message.type()) && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("request", (request) => asked.add(new URL(request.url()).origin));
page.on("dialog", (dialog) => dialog.accept(answerDialog));

/** Asks the page until it says yes. */
async function until(what, ask, ...rest) {
  // Shorter than the patience of the test, which would not tell what the page shows.
  const deadline = Date.now() + 25_000;
  while (!(await page.evaluate(ask, ...rest))) {
    if (Date.now() > deadline) throw new Error(`never: ${what}: ${await page.evaluate(() => document.body.innerText)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
const shows = (text) => until(text, (wanted) => document.body.innerText.includes(wanted), text);
const see = (hash) => page.evaluate((to) => { location.hash = to; }, hash);

async function press(text) {
  await until(`a button ${text}`, (wanted) => [...document.querySelectorAll("button")].some((one) => one.textContent === wanted && !one.disabled), text);
  await page.evaluate((wanted) => [...document.querySelectorAll("button")].find((one) => one.textContent === wanted).click(), text);
}

async function step(name) {
  const overflows = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
  if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/console-${name}.png` });
  console.log(JSON.stringify({ step: name, findings: await findings(page), overflows, complaints, origins: [...asked] }));
  complaints = [];
}

/** Sends a body to a function, as a person does. */
async function send(name, button, body) {
  await see(`functions/${name}`);
  await shows(`Run ${name}`);
  if (body !== undefined) {
    await until("a field", () => document.querySelector("textarea") !== null);
    await page.evaluate((text) => { document.querySelector("textarea").value = text; }, body);
  }
  await press(button);
}

const views = ["orders", "quarantine", "functions", "queues", "invocations"];

const walks = {
  async orders() {
    await shows("There is no order yet");
    await shows("curl -i");
    await step("empty");

    await send("OrderIngress", "Send");
    await shows("Answer 202");
    await step("submitted");

    await see("orders");
    await shows("A-1001");
    await until("it completes by itself", () => document.querySelector("td .completed") !== null);
    await page.evaluate(() => { document.querySelector("[data-key=q]").focus(); });
    await step("completed");

    const order = { orderId: "<img src=x onerror=\"window.hacked=1\">", customerId: "<b>C</b>", currency: "EUR", items: [{ sku: "A", quantity: 1000000, unitPrice: "1000000000" }] };
    await send("OrderIngress", "Send", JSON.stringify(order));
    await shows("Answer 202");
    await see("orders");
    await until("it fails", () => document.querySelector("td .failed") !== null);
    await shows("<img src=x onerror=\"window.hacked=1\">");
    await until("it stays text", () => document.querySelectorAll("main img, main b:not(.counts b)").length === 0 && window.hacked === undefined);
    await step("hostile");

    await page.evaluate(() => [...document.querySelectorAll("main a")].find((link) => link.textContent.startsWith("<img")).click());
    await shows("Timeline");
    await press("Retry");
    await shows("redriven");
    await until("it fails again", () => [...document.querySelectorAll("td .failed")].filter((one) => one.textContent === "failed").length === 2);
    await until("its invocations are there with their lines", () => [...document.querySelectorAll("td")].some((cell) => cell.textContent === "OrderProcessor") && document.body.innerText.includes("log line"));
    await step("retried");

    await send("OrderDeadLetter", "Run now", "junk <script>window.hacked=2</script>");
    await see("quarantine");
    await shows("Send again");
    await page.evaluate(() => document.querySelector("summary").click());
    await shows("junk <script>");
    await step("quarantine");
    answerDialog = "a test";
    await press("Discard…");
    await shows("Nothing is in quarantine");

    await send("OrderSweeper", "Run now");
    await until("it has run", () => [...document.querySelectorAll("tr")].some((row) => row.innerText.includes("by hand") && row.innerText.includes("completed")));
    await step("timer");

    await see("invocations");
    await until("each function is there", () => ["OrderIngress", "OrderProcessor", "OrderSweeper"].every((name) => document.querySelector("tbody")?.innerText.includes(name)));
    await step("invocations");

    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    await see("orders");
    await shows("oldest open order");
    await until("the list is drawn", () => document.querySelector("td .failed") !== null);
    await step("dark");

    await page.setViewport({ width: 320, height: 900 });
    for (const view of views) {
      await see(view);
      await until(view, (name) => document.querySelector(`nav a[aria-current]`)?.getAttribute("href") === `#${name}` && document.querySelector("main table, main .empty") !== null, view);
      if (await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth)) throw new Error(`${view} is wider than 320 px`);
    }
    await see("orders");
    await until("the list is drawn", () => document.querySelector("td .failed") !== null);
    await step("narrow");
  },

  async crowded() {
    await shows("not live: too many pages are open");
    await step("crowded");
  },

  async cancel() {
    await shows("Order C-1");
    await until("it is worked on", () => document.querySelector("dd .processing") !== null);
    await press("Cancel the order");
    await until("it is cancelled by itself", () => document.querySelector("dd .cancelled") !== null);
    await step("cancelled");
  },

  async queues() {
    await shows("handler is ready");
    await until("no orders, no panel", () => [...document.querySelectorAll("nav a")].map((link) => link.textContent).join() === "Functions,Queues,Invocations");
    await step("functions");
    await see("queues");
    await until("a dead letter", () => document.querySelector("a.dead") !== null);
    await step("queues");
    await page.click("a.dead");
    await shows("MaxDeliveryCountExceeded");
    await page.evaluate(() => document.querySelector("summary").click());
    await shows("<script>alert(1)</script>");
    await step("messages");
  },

  async many() {
    await shows("Only 200 orders are shown");
    const isSearch = (request) => request.url().includes("q=N-207");
    let searches = 0;
    page.on("request", (request) => { searches += isSearch(request); });
    await page.type("[data-key=q]", "N-207");
    await page.keyboard.press("Enter");
    await until("one is found", () => document.querySelectorAll("tbody tr").length === 1);
    await until("the keyboard stays where it was", () => document.activeElement.dataset.key === "q");
    // Events do not read it again; its button does.
    for (let event = 0; event < 2; event++) await page.waitForRequest((request) => request.url().endsWith("/api/app"));
    if (searches !== 1) throw new Error(`${searches} searches instead of one`);
    await shows("Read at");
    const again = page.waitForRequest(isSearch);
    await press("Read again");
    await again;
    await step("found");
  },
};

try {
  await page.setViewport({ width: 1100, height: 800 });
  await page.goto(url, { waitUntil: "load" });
  await walks[walk]();
} finally {
  await browser.close();
}
