// The Vercel AI SDK with its provider for OpenAI, on the Responses API, which is its default. `store: false`,
// since the gateway keeps no responses.
import { createOpenAI } from "@ai-sdk/openai";
import { tryProvider } from "./_ai_sdk.mjs";
import { URL } from "./_report.mjs";

const model = (apiKey, name) => createOpenAI({ baseURL: URL, apiKey })(name);
await tryProvider(model, { providerOptions: { openai: { store: false } } });
