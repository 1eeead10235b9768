// Anthropic's SDK for Node.
import Anthropic from "@anthropic-ai/sdk";
import { CALLER, MESSAGES, MODEL, MOST, PARAMETERS, ROOT, run } from "./_report.mjs";

const client = (apiKey) => new Anthropic({ baseURL: ROOT, apiKey });
const asked = { model: MODEL, max_tokens: MOST, messages: MESSAGES };
const thinking = { type: "enabled", budget_tokens: 40 };

async function text(key) {
  const said = await client(key).messages.create({ ...asked, thinking });
  return said.content[1].text;
}

async function tool(key) {
  const tools = [{ name: "add", input_schema: PARAMETERS }];
  const said = await client(key).messages.create({ ...asked, model: CALLER, tools });
  const called = said.content.find((block) => block.type === "tool_use");
  return [called.name, called.input];
}

async function stream(key) {
  const parts = [];
  const events = client(key).messages.stream({ ...asked, thinking });
  events.on("text", (part) => parts.push(part));
  await events.finalMessage();
  return parts;
}

await run(text, tool, stream);
