// OpenCode, headless: an agent with one MCP tool, the talk continued, and a model that is not there.
// Its own agents send 15,000 tokens. The built-in model, which is weak, seldom calls at once after
// OpenCode's account of the machine, so that it is asked to with many words, and again.
const { existsSync, readFileSync } = require("fs");
const { GREETING, QUESTION, print } = require("./asked.cjs");
const { inFolder, run } = require("./processes.cjs");

const baseURL = process.argv[2];
const agent = { mode: "primary", prompt: "Call tools. Call tools. Call tools.", tools: { "*": false, "get_*": true } };
const TRIES = 4;

inFolder((folder) => {
  const cities = `${folder}/cities`;
  const config = {
    autoupdate: false, share: "disabled", snapshot: false, lsp: false, formatter: false,
    agent: { weather: agent },
    mcp: {
      get: { type: "local", command: ["node", `${__dirname}/weather_mcp.cjs`, cities] },
    },
    provider: {
      mlxd: {
        npm: "@ai-sdk/openai-compatible",
        options: { baseURL },
        models: { default: {}, absent: {} },
      },
    },
  };
  const variables = {
    OPENCODE_CONFIG_CONTENT: JSON.stringify(config),
    OPENCODE_DISABLE_AUTOUPDATE: "1",
    OPENCODE_DISABLE_DEFAULT_PLUGINS: "1",
    OPENCODE_DISABLE_LSP_DOWNLOAD: "1",
    OPENCODE_DISABLE_MODELS_FETCH: "1",
  };
  const ask = (model, ...words) => {
    const flags = ["run", "--format", "json", "--title", "talk", "--agent", "weather"];
    const told = run("opencode", [...flags, "-m", `mlxd/${model}`, ...words], folder, variables);
    return told.output.trim().split("\n").map((line) => JSON.parse(line));
  };
  const text = (events) =>
    events.filter(({ type }) => type === "text").map(({ part }) => part.text).join("");
  let closing = "";
  for (let left = TRIES; left > 0 && !existsSync(cities); left -= 1) {
    closing = text(ask("default", `${QUESTION} Call get_weather.`));
  }
  const continued = text(ask("default", "--continue", GREETING));
  const refused = ask("absent", GREETING).find(({ type }) => type === "error");
  print({
    city: readFileSync(cities, "utf8").trim(), closing, continued, error: refused.error.name,
  });
});
