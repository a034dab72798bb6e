// BullMQ: a job for each event, the row a Redis hash, the status event an entry of a stream; both by one script.
//
//   bullmq.mjs work PORT          until SIGTERM
//   bullmq.mjs fill PORT COUNT    puts so many jobs into the queue, one event a line on standard input
//
// Redis answers when its append-only file is synced (appendfsync always): a job is completed, which is its ack, only after
// its row and its status event are durable.

import { createInterface } from "node:readline";

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const NAME = "events";
// Redis syncs once for whatever has come in: more jobs at a time, fewer syncs a job.
const CONCURRENCY = Number(process.env.PEERS_BULLMQ_CONCURRENCY ?? 128);
const CHUNK = 1000;

// The number of the status event is known only where the row is: the event is put together there.
const APPLY = `
local sequence = redis.call("HINCRBY", KEYS[1], "sequence", 1)
redis.call("HSET", KEYS[1], "last_event", ARGV[1], "changed_at", ARGV[2])
redis.call("XADD", KEYS[2], "*", "event", ARGV[3] .. sequence .. ARGV[4] .. sequence .. ARGV[5])
return sequence`;

const [role, port, count] = process.argv.slice(2);
const connection = { host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null };

async function work() {
  const redis = new Redis(connection);
  redis.defineCommand("applyEvent", { numberOfKeys: 2, lua: APPLY });
  const worker = new Worker(
    NAME,
    async ({ data: event }) => {
      const rest = JSON.stringify({ causationid: event.id, data: event.data });
      const head = JSON.stringify({
        specversion: "1.0", source: "peer", type: event.type, subject: event.subject, time: event.time,
        datacontenttype: "application/json", tenantid: event.tenantid, schemaversion: "1",
      });
      await redis.applyEvent(
        `agent:${event.data.agent_id}`, "status", event.id, event.time,
        `${head.slice(0, -1)},"id":"${event.tenantid}:${event.subject}:`, `","sequence":"`, `",${rest.slice(1)}`,
      );
    },
    { connection, concurrency: CONCURRENCY, removeOnComplete: { count: 0 } },
  );
  worker.on("error", (error) => console.error(error));
  worker.on("failed", (_job, error) => {
    console.error(error);
    process.exit(1);
  });
  process.once("SIGTERM", async () => {
    await worker.close();
    await redis.quit();
  });
}

async function fill() {
  const queue = new Queue(NAME, { connection });
  let chunk = [];
  let added = 0;
  const add = async () => {
    await queue.addBulk(chunk);
    added += chunk.length;
    chunk = [];
  };
  for await (const line of createInterface({ input: process.stdin })) {
    chunk.push({ name: "event", data: JSON.parse(line) });
    if (chunk.length === CHUNK) await add();
  }
  await add();
  await queue.close();
  if (added !== Number(count)) throw new Error(`${added} jobs added, not ${count}`);
}

if (role === "work" && port) await work();
else if (role === "fill" && count) await fill();
else {
  console.error("bullmq.mjs work PORT | fill PORT COUNT");
  process.exit(64);
}
