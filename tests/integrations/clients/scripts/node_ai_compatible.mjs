// The Vercel AI SDK with its provider for servers that speak OpenAI's chat.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { tryProvider } from "./_ai_sdk.mjs";
import { URL } from "./_report.mjs";

await tryProvider((apiKey, name) => createOpenAICompatible({ name: "elastic", baseURL: URL, apiKey })(name));
