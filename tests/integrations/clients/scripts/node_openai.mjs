// OpenAI's SDK for Node: chat and responses.
import OpenAI from "openai";
import { CALLER, MESSAGES, MODEL, MOST, PARAMETERS, QUESTION, URL, run } from "./_report.mjs";

const client = (apiKey) => new OpenAI({ baseURL: URL, apiKey });

async function text(key) {
  const said = await client(key).responses.create({ model: MODEL, input: QUESTION, max_output_tokens: MOST });
  return said.output_text;
}

async function tool(key) {
  const tools = [{ type: "function", function: { name: "add", parameters: PARAMETERS } }];
  const said = await client(key).chat.completions.create({ model: CALLER, messages: MESSAGES, tools });
  const called = said.choices[0].message.tool_calls[0].function;
  return [called.name, JSON.parse(called.arguments)];
}

async function stream(key) {
  const asked = { model: MODEL, messages: MESSAGES, max_completion_tokens: MOST, stream: true };
  const parts = [];
  for await (const chunk of await client(key).chat.completions.create(asked)) {
    if (chunk.choices[0]?.delta.content) parts.push(chunk.choices[0].delta.content);
  }
  return parts;
}

await run(text, tool, stream);
