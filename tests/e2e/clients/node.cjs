// Asks a service, whose base URL is the argument, as Node's `openai` package does; prints JSON.
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
};
const description = "Get the weather of a city";
const asked = {
  model: "default",
  temperature: 0,
  messages: [{ role: "user", content: "What is the weather in Oslo?" }],
};
const tools = [{ type: "function", function: { name: "get_weather", description, parameters } }];

async function main() {
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    streamed += chunk.choices[0].delta.content ?? "";
  }
  const plain = await client.chat.completions.create(asked);
  const stream = client.chat.completions.stream({ ...asked, tools });
  const called = (await stream.finalChatCompletion()).choices[0];
  console.log(JSON.stringify({
    streamed,
    plain: plain.choices[0].message.content,
    reason: called.finish_reason,
    calls: called.message.tool_calls.map((call) => [call.function.name, call.function.arguments]),
  }));
}

main();
