// The Vercel AI SDK with its provider for Anthropic.
import { createAnthropic } from "@ai-sdk/anthropic";
import { tryProvider } from "./_ai_sdk.mjs";
import { URL } from "./_report.mjs";

await tryProvider((apiKey, name) => createAnthropic({ baseURL: URL, apiKey })(name));
