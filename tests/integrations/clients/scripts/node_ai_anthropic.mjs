// The Vercel AI SDK with its provider for Anthropic.
import { createAnthropic } from "@ai-sdk/anthropic";
import { generateText, jsonSchema, stepCountIs, streamText, tool as asTool } from "ai";
import { CALLER, MODEL, MOST, PARAMETERS, QUESTION, URL, run } from "./_report.mjs";

const asked = { prompt: QUESTION, maxOutputTokens: MOST };
const model = (apiKey, name) => createAnthropic({ baseURL: URL, apiKey })(name);

async function text(key) {
  return (await generateText({ ...asked, model: model(key, MODEL) })).text;
}

async function tool(key) {
  const calls = [];
  const execute = async (given) => (calls.push(given), given.a + 1);
  const add = asTool({ description: "Adds.", inputSchema: jsonSchema(PARAMETERS), execute });
  const options = { model: model(key, CALLER), tools: { add }, stopWhen: stepCountIs(3) };
  const said = await generateText({ ...asked, ...options });
  if (said.text !== "it is 2") throw new Error(`the second step said ${said.text}`);
  return ["add", calls[0]];
}

async function stream(key) {
  const parts = [];
  for await (const part of streamText({ ...asked, model: model(key, MODEL) }).textStream) parts.push(part);
  return parts;
}

await run(text, tool, stream);
