// Opens pages in headless Chromium and prints what a person would see, as one JSON object a page.
//
//     CHROMIUM=/usr/bin/chromium node page.js PAGES
//
// PAGES is JSON: [{ url, scripts, width, dark, click, until, screenshot }]. `until`: text to wait for. `click`: a button to press.
import { findings, launch } from "./browser.js";

const browser = await launch();
try {
  for (const [number, { url, scripts = true, width = 800, dark = false, click, until, screenshot }] of JSON.parse(process.argv[2]).entries()) {
    const page = await browser.newPage();
    const complaints = [];
    const asked = [];
    page.on("console", (message) => ["error", "warn"].includes(message.type()) && complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => asked.push(new URL(request.url()).origin));
    page.on("dialog", (dialog) => dialog.accept());
    await page.setJavaScriptEnabled(scripts);
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
    const answer = await page.goto(url, { waitUntil: "load" });
    if (click) await page.click(click);
    if (until) {
      // Without scripts nothing runs in the page, so the text is read from outside.
      const deadline = Date.now() + 60_000;
      while (!(await page.content().catch(() => "")).includes(until)) {
        if (Date.now() > deadline) throw new Error(`${url} never showed ${until}: ${await page.content()}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
    const html = await page.content();
    let broken = [];
    let seen = {};
    if (scripts) {
      broken = await findings(page);
      seen = await page.evaluate(() => ({
        text: document.body.innerText,
        overflows: document.documentElement.scrollWidth > document.documentElement.clientWidth,
        cancel: document.getElementById("cancel")?.checkVisibility() ?? null,
      }));
    }
    if (screenshot) await page.screenshot({ path: screenshot });
    console.log(JSON.stringify({ page: number, status: answer.status(), bytes: (await answer.text().catch(() => "")).length, origins: [...new Set(asked)], complaints, findings: broken, html, ...seen }));
    await page.close();
  }
} finally {
  await browser.close();
}
