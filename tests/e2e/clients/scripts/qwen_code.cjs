// Qwen Code, headless: a call of its one MCP tool that must come, the talk continued with its
// history, and a model that is not there. Its rules, skills and tools would not fit in 2,048 tokens.
const { mkdirSync, readFileSync, writeFileSync } = require("fs");
const { GREETING, QUESTION, print } = require("./asked.cjs");
const { inFolder, run } = require("./processes.cjs");

const TURNS_SPENT = 53; // the exit status after --max-session-turns
const TOOLS = [
  "agent", "enter_worktree", "exit_worktree", "get_goal", "list_agents", "record_artifact",
  "report_findings", "send_message", "skill", "task_stop", "tool_call", "tool_search", "update_goal",
];

inFolder((folder) => {
  const cities = `${folder}/cities`;
  const server = { command: "node", args: [`${__dirname}/weather_mcp.cjs`, cities], trust: true };
  const variables = {
    HOME: folder,
    OPENAI_API_KEY: "none",
    OPENAI_BASE_URL: process.argv[2],
    QWEN_USAGE_STATISTICS_ENABLED: "false",
  };
  mkdirSync(`${folder}/.qwen`);
  const configure = (more) => writeFileSync(`${folder}/.qwen/settings.json`, JSON.stringify({
    $version: 3,
    general: { enableAutoUpdate: false },
    memory: { enableManagedAutoMemory: false },
    mcpServers: { get: server },
    model: {
      generationConfig: { contextWindowSize: 2048, ...more },
    },
    privacy: { usageStatisticsEnabled: false },
    skills: { disabledLevels: ["bundled"] },
    telemetry: { enabled: false },
  }));
  const ask = (model, question, ...words) => {
    const flags = ["--auth-type", "openai", "--system-prompt", "Be brief.", "-o", "stream-json"];
    const tools = ["--core-tools", "none", "--exclude-tools", ...TOOLS];
    const told = run(
      "qwen", [question, "-m", model, ...flags, ...tools, "--yolo", ...words], folder, variables,
    );
    const events = told.output.trim().split("\n").map((line) => JSON.parse(line));
    return { ...told, result: events.find(({ type }) => type === "result"), events };
  };
  configure({ extra_body: { tool_choice: "required" } });
  const called = ask("default", QUESTION, "--max-session-turns", "2");
  // One sentence: this small model fills its context with some answers and calls, and is asked again.
  configure({ extra_body: { stop: [".", "!", "?"], tool_choice: "none" } });
  const continued = ask("default", GREETING, "--continue");
  const refused = ask("absent", GREETING);
  print({
    called: called.status === TURNS_SPENT && readFileSync(cities, "utf8") !== "",
    turns: called.events.filter(({ type }) => type === "assistant").length,
    continued: continued.result.result,
    error: refused.result.error.message.match(/API Error: \d+/)?.[0] ?? refused.result.error.message,
  });
});
