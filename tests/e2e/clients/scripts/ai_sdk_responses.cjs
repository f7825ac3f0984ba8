// The AI SDK with `@ai-sdk/openai`, which is /v1/responses: a tool, an object, a refusal.
const { createOpenAI } = require("@ai-sdk/openai");
const { generateObject, generateText, stepCountIs, streamText, tool } = require("ai");
const { z } = require("zod");
const { QUESTION, GREETING, WEATHER, cityAsked, weatherIn, print } = require("./asked.cjs");

const openai = createOpenAI({ baseURL: process.argv[2], apiKey: "none" });

async function main() {
  const { description } = WEATHER;
  const weather = tool({
    description, inputSchema: z.object({ city: z.string() }), execute: weatherIn,
  });
  const model = openai("default");
  const agent = streamText({
    model, prompt: QUESTION, tools: { get_weather: weather }, stopWhen: stepCountIs(3),
  });
  const closing = await agent.text;
  const schema = z.object({ word: z.enum(["good", "bad"]) });
  const { object } = await generateObject({ model, schema, prompt: GREETING });
  const fixed = { model, prompt: GREETING, temperature: 0 };
  let streamed = "";
  for await (const part of streamText(fixed).textStream) streamed += part;
  const error = await generateText({ ...fixed, model: openai("absent") }).catch((e) => e);
  print({
    city: cityAsked(), closing, streamed, plain: (await generateText(fixed)).text,
    error: error.name, structured: object.word,
  });
}

main();
