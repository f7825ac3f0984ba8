// Node's `openai`: its tool runner, a stream, vectors as base64 (its default) and as numbers, and a
// model that is not there. Prints a report.
const OpenAI = require("openai");
const { QUESTION, GREETING, WEATHER, cityAsked, weatherIn, print } = require("./asked.cjs");

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const greeting = { model: "default", messages: [{ role: "user", content: GREETING }] };

async function main() {
  const runner = client.chat.completions.runTools({
    model: "default",
    messages: [{ role: "user", content: QUESTION }],
    stream: true,
    tools: [{ type: "function", function: { ...WEATHER, parse: JSON.parse, function: weatherIn } }],
  });
  const closing = await runner.finalContent();
  const plain = await client.chat.completions.create({ ...greeting, temperature: 0 });
  let streamed = "";
  const stream = await client.chat.completions.create({
    ...greeting, temperature: 0, stream: true, stream_options: { include_usage: true },
  });
  for await (const chunk of stream) streamed += chunk.choices[0]?.delta.content ?? "";
  const error = await client.chat.completions.create({ ...greeting, model: "absent" }).catch((e) => e);
  const embedded = { model: "embedder", input: ["water", "wine"] };
  const packed = await client.embeddings.create(embedded);
  const plainly = await client.embeddings.create({ ...embedded, encoding_format: "float" });
  const numbers = (answer) => JSON.stringify(answer.data.map((each) => each.embedding));
  print({
    embedded: numbers(packed) === numbers(plainly) && packed.data[1].embedding.length > 100,
    city: cityAsked(), closing, streamed, error: error.constructor.name,
    plain: plain.choices[0].message.content,
  });
}

main();
