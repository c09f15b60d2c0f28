// Renders reports: /now answers with the result, /later with a 202 and Location, /progress line by line.
import http from "node:http";
import { EventEmitter, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

const PORT = Number(process.env.PORT ?? 9000), PAUSE = 1000 * Number(process.env.PAUSE ?? 1);
const jobs = new Map(); // By Idempotency-Key. A real service keeps them in its database.

// One rendering, which all calls under its key share.
class Job extends EventEmitter {
  constructor(order) {
    super().setMaxListeners(0);
    this.render(order);
  }

  async render({ title, pages }) {
    for (const [number, stage] of ["reading", "drawing", "binding"].entries()) {
      this.show({ status: "running", progress: 33 * number, stage });
      await sleep(PAUSE);
    }
    this.show({ status: "completed", result: { file: `${title}.pdf`, pages, rendered: String(process.hrtime.bigint()) } });
  }

  show(state) {
    this.state = state;
    this.emit("change");
  }

  async *states() {
    for (yield this.state; !this.state.result; yield this.state) await once(this, "change");
  }
}

function answer(response, status, body, headers = {}) {
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
}

async function serve(request, response) {
  if (request.method === "GET") {
    const job = jobs.get(decodeURIComponent(request.url.replace("/jobs/", "")));
    return answer(response, job ? 200 : 404, job?.state ?? {});
  }
  const order = JSON.parse((await request.toArray()).join("")), key = request.headers["idempotency-key"];
  if (typeof order.title !== "string" || !Number.isInteger(order.pages))
    return answer(response, 422, { title: "a report has a title and a number of pages" });
  if (!jobs.has(key)) jobs.set(key, new Job(order));
  if (request.url === "/later")
    return answer(response, 202, {}, { Location: `/jobs/${encodeURIComponent(key)}`, "Retry-After": "1" });
  if (request.url === "/progress") response.writeHead(200, { "Content-Type": "application/x-ndjson" });
  for await (const state of jobs.get(key).states()) {
    if (request.url === "/progress") response.write(JSON.stringify(state) + "\n");
    else if (state.result) return answer(response, 200, state.result);
  }
  response.end();
}

http.createServer(serve).listen(PORT, "127.0.0.1");
