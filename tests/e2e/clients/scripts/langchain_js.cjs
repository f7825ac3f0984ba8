// LangChain.js: `createAgent` over `ChatOpenAI`, structured output, a stream and a refusal.
const { createAgent, tool } = require("langchain");
const { ChatOpenAI } = require("@langchain/openai");
const { z } = require("zod");
const { QUESTION, GREETING, WEATHER, cityAsked, weatherIn, print } = require("./asked.cjs");

const configuration = { baseURL: process.argv[2] };
const chat = (model, more) =>
  new ChatOpenAI({ model, apiKey: "none", configuration, ...more });

async function main() {
  const { name, description } = WEATHER;
  const weather = tool(weatherIn, { name, description, schema: z.object({ city: z.string() }) });
  const agent = createAgent({ model: chat("default"), tools: [weather] });
  const { messages } = await agent.invoke({ messages: [{ role: "user", content: QUESTION }] });
  const mood = createAgent({
    model: chat("default"),
    responseFormat: z.object({ word: z.enum(["good", "bad"]) }),
  });
  const { structuredResponse } = await mood.invoke({
    messages: [{ role: "user", content: GREETING }],
  });
  const fixed = chat("default", { temperature: 0 });
  let streamed = "";
  for await (const chunk of await fixed.stream(GREETING)) streamed += chunk.content;
  const error = await chat("absent").invoke(GREETING).catch((e) => e);
  print({
    city: cityAsked(), closing: messages.at(-1).content, streamed,
    plain: (await fixed.invoke(GREETING)).content,
    error: error.constructor.name, structured: structuredResponse.word,
  });
}

main();
