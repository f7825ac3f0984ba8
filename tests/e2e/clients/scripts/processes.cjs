// Runs the coding agents, each in a folder that is removed afterwards.
const { spawnSync } = require("child_process");
const { mkdtempSync, realpathSync, rmSync } = require("fs");
const { tmpdir } = require("os");
const path = require("path");

const TIMEOUT_MS = 120_000;

exports.inFolder = (work) => {
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), "mlxd-"));
  try {
    work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
};

exports.run = (name, words, cwd, variables) => {
  const program = path.join(process.env.NODE_PATH, ".bin", name);
  const { status, stdout, stderr } = spawnSync(program, words, {
    cwd,
    encoding: "utf8",
    env: { ...process.env, HOME: cwd, PWD: cwd, ...variables },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: TIMEOUT_MS,
  });
  process.stderr.write(stderr);
  return { status, output: stdout };
};
