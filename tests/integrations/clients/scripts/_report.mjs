// What `_report.py` is for Python: what the scripts of Node's clients share.

export const URL = process.env.ELASTIC_URL;
export const ROOT = URL.replace(/\/v1$/, "");
export const [MODEL, CALLER, MOST] = ["e1-tiny", "caller", 100];
export const QUESTION = "A shop has 9 hats . #1 It gets 14 . #2 It sells 3 . How many hats are left ?";
export const MESSAGES = [{ role: "user", content: QUESTION }];
export const PARAMETERS = { type: "object", properties: { a: { type: "integer" } }, required: ["a"] };

export async function run(text, tool, stream) {
  const key = process.env.ELASTIC_KEY;
  const found = { text: await text(key) };
  if (tool) found.tool = await tool(key);
  if (stream) found.stream = await stream(key);
  for (const name of ["spent", "busy"]) {
    const began = performance.now();
    try {
      await text(process.env[`ELASTIC_${name.toUpperCase()}`]);
    } catch (error) {
      found[name] = { error: error.constructor.name, seconds: (performance.now() - began) / 1000 };
    }
  }
  console.log(JSON.stringify(found));
}
