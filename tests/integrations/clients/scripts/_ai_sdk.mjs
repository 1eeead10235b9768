// The Vercel AI SDK, as its users write it, whatever its provider.
import { generateText, jsonSchema, stepCountIs, streamText, tool as asTool } from "ai";
import { CALLER, MODEL, MOST, PARAMETERS, QUESTION, run } from "./_report.mjs";

// `model` makes a provider's model from a key and a name; `options` go with every request.
export async function tryProvider(model, options = {}) {
  const asked = { prompt: QUESTION, maxOutputTokens: MOST, ...options };

  async function text(key) {
    return (await generateText({ ...asked, model: model(key, MODEL) })).text;
  }

  async function tool(key) {
    const calls = [];
    const execute = async (given) => (calls.push(given), given.a + 1);
    const add = asTool({ description: "Adds.", inputSchema: jsonSchema(PARAMETERS), execute });
    const steps = { model: model(key, CALLER), tools: { add }, stopWhen: stepCountIs(3) };
    const said = await generateText({ ...asked, ...steps });
    if (said.text !== "it is 2") throw new Error(`the second step said ${said.text}`);
    return ["add", calls[0]];
  }

  async function stream(key) {
    const parts = [];
    for await (const part of streamText({ ...asked, model: model(key, MODEL) }).textStream) parts.push(part);
    return parts;
  }

  await run(text, tool, stream);
}
