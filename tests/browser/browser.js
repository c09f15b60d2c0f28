// Headless Chromium, and what axe finds in a page.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Starts Chromium, through a pipe, so that it ends with this process however that ends. */
export const launch = () => puppeteer.launch({ pipe: true, executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu", "--no-proxy-server"] });

/** The rules of accessibility that a page breaks. axe runs as a tool of the browser, beside the page's own policy. */
export async function findings(page) {
  const session = await page.createCDPSession();
  await session.send("Runtime.evaluate", { expression: axe });
  const { result } = await session.send("Runtime.evaluate", {
    expression: "axe.run().then((r) => JSON.stringify(r.violations.map((v) => `${v.id}: ${v.nodes[0].html}`)))",
    awaitPromise: true,
    returnByValue: true,
  });
  await session.detach();
  return JSON.parse(result.value);
}
