// Claude Code, without a person (`-p`): it has the model's command run, gives the output back, and prints the answer.
import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MOST, ROOT, run } from "./_report.mjs";

class ClaudeCodeError extends Error {}

const folder = mkdtempSync(join(tmpdir(), "claude-"));
const program = join(import.meta.dirname, "..", "node_modules", ".bin", "claude");

async function text(key) {
  const others = Object.entries(process.env).filter(([name]) => !/^(ANTHROPIC|CLAUDE|ELASTIC)/.test(name));
  const env = {
    ...Object.fromEntries(others),
    HOME: folder, // it finds no settings there, and leaves none behind
    ANTHROPIC_BASE_URL: ROOT,
    ANTHROPIC_API_KEY: key,
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
    CLAUDE_CODE_MAX_OUTPUT_TOKENS: `${MOST}`,
    CLAUDE_CODE_MAX_RETRIES: "2",
  };
  const asked = ["-p", "add 20 and 3", "--model", "coder", "--allowedTools", "Bash", "--output-format", "json"];
  const { stdout } = spawnSync(program, asked, { cwd: folder, env, stdio: ["ignore", "pipe", "inherit"] });
  const said = JSON.parse(stdout.toString());
  if (said.is_error) throw new ClaudeCodeError(said.result);
  if (said.num_turns !== 2) throw new Error(`it took ${said.num_turns} turns`);
  return said.result;
}

await run(text, null, null);
