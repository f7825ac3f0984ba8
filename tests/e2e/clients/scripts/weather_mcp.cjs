// An MCP server on standard input and output with one tool, for the coding agents. It appends each
// city that it is asked for to the file that is its argument. Agents put the server's name before
// that of the tool, so that `weather` of the server `get` becomes `get_weather`.
const { appendFileSync } = require("fs");
const { createInterface } = require("readline");
const { WEATHER, weatherIn } = require("./asked.cjs");

const { description, parameters: inputSchema } = WEATHER;
const tool = { name: "weather", description, inputSchema };

const METHODS = {
  initialize: ({ protocolVersion }) => ({
    protocolVersion,
    capabilities: { tools: {} },
    serverInfo: { name: "weather", version: "1" },
  }),
  ping: () => ({}),
  "tools/list": () => ({ tools: [tool] }),
  "tools/call": ({ arguments: given }) => {
    appendFileSync(process.argv[2], `${given.city}\n`);
    return { content: [{ type: "text", text: weatherIn(given) }] };
  },
};

function answer({ id, method, params }) {
  if (id === undefined) return;
  const outcome = METHODS[method]
    ? { result: METHODS[method](params ?? {}) }
    : { error: { code: -32601, message: `There is no method ${method}.` } };
  process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", id, ...outcome })}\n`);
}

createInterface({ input: process.stdin }).on("line", (line) => answer(JSON.parse(line)));
