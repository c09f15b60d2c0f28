// Reads orders with the official JavaScript client, which shares no code with Waybill, and prints what it saw as JSON.

import { webcrypto } from "node:crypto";

import { CosmosClient } from "@azure/cosmos";

// Node.js 18, which Debian 12 has, keeps it there; the client looks for it here.
globalThis.crypto ??= webcrypto;

const { COSMOS_ENDPOINT, COSMOS_KEY, COSMOS_DATABASE, COSMOS_CONTAINER, IDS } = process.env;

const client = new CosmosClient({ endpoint: COSMOS_ENDPOINT, key: COSMOS_KEY });
const container = client.database(COSMOS_DATABASE).container(COSMOS_CONTAINER);

const { resource: definition } = await container.read();

const items = {};
for (const id of IDS.split(",")) {
  const { resource, etag, statusCode } = await container.item(id, id).read();
  items[id] = { statusCode, etag, item: resource ?? null };
}

const due = "SELECT VALUE c.id FROM c WHERE c.dueAt > @moment ORDER BY c.dueAt";
const query = { query: due, parameters: [{ name: "@moment", value: 0 }] };
const { resources: withDueAt } = await container.items.query(query).fetchAll();

console.log(JSON.stringify({ partitionKey: definition.partitionKey, defaultTtl: definition.defaultTtl, items, withDueAt }));
client.dispose();
