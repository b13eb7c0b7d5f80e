// The features through OpenAI's Node client; the same lines of JSON as the Python drivers print.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const require = createRequire(process.env.CLIENT_MODULES + "/");
const OpenAI = require("openai");
const { version } = JSON.parse(readFileSync(process.env.CLIENT_MODULES + "/openai/package.json", "utf8"));
const model = process.env.CLIENT_MODEL;
const client = new OpenAI({ baseURL: process.env.CLIENT_URL, apiKey: process.env.CLIENT_KEY || "none", maxRetries: 0 });
const question = "Count from one to five in words.";
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 8 } },
  required: ["city"],
  additionalProperties: false,
};
const tool = { type: "function", function: { name: "weather", description: "Tells the weather of a city.", parameters } };
const named = { type: "function", function: { name: "weather" } };
const form = { type: "json_schema", json_schema: { name: "place", strict: true, schema: parameters } };

function expect(holds, otherwise) {
  if (!holds) throw new Error(JSON.stringify(otherwise));
}

async function ask(mode, extra = {}) {
  const body = { model, messages: [{ role: "user", content: question }], temperature: 0, max_tokens: 60, ...extra };
  const told = { text: "", reason: null, usage: null, calls: [], logprobs: 0 };
  const add = (chunk) => {
    told.usage = chunk.usage ?? told.usage;
    for (const choice of chunk.choices) {
      const part = choice.delta ?? choice.message;
      told.text += part.content ?? "";
      told.reason = choice.finish_reason ?? told.reason;
      told.logprobs += choice.logprobs?.content?.length ?? 0;
      for (const call of part.tool_calls ?? []) {
        if (call.function.name) told.calls.push({ name: call.function.name, arguments: "" });
        told.calls.at(-1).arguments += call.function.arguments ?? "";
      }
    }
  };
  if (mode === "plain") add(await client.chat.completions.create(body));
  else {
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create({ ...body, ...options })) add(chunk);
  }
  return told;
}

const features = {
  "chat with usage": async (mode) => {
    const told = await ask(mode);
    expect(told.text && ["stop", "length"].includes(told.reason) && told.usage.total_tokens > 0, told);
  },
  max_tokens: async (mode) => {
    const told = await ask(mode, { max_tokens: 3 });
    expect(told.reason === "length" && told.usage.completion_tokens === 3, told);
  },
  "stop text": async (mode) => {
    const { text } = await ask(mode);
    const middle = text.slice(4, 7);
    const told = await ask(mode, { stop: [middle] });
    expect(told.text === text.slice(0, text.indexOf(middle)) && told.reason === "stop", { text, told });
  },
  "named tool call": async (mode) => {
    const told = await ask(mode, { tools: [tool], tool_choice: named, max_tokens: 150 });
    expect(told.reason === "tool_calls" && told.calls[0].name === "weather", told);
    expect("city" in JSON.parse(told.calls[0].arguments), told);
  },
  "JSON schema": async (mode) => {
    const told = await ask(mode, { response_format: form, max_tokens: 150 });
    expect("city" in JSON.parse(told.text), told);
  },
  logprobs: async (mode) => {
    const told = await ask(mode, { logprobs: true, top_logprobs: 2, max_tokens: 4 });
    expect(told.logprobs === 4, told);
  },
  "errors by class": async (mode) => {
    const cases = [
      [OpenAI.NotFoundError, { model: "no-such-model" }],
      [OpenAI.BadRequestError, { no_such_field: 1 }],
    ];
    for (const [wanted, extra] of cases) {
      const error = await ask(mode, extra).catch((caught) => caught);
      expect(error instanceof wanted, `${error} is no ${wanted.name}`);
    }
  },
};

for (const [feature, check] of Object.entries(features)) {
  for (const mode of ["plain", "stream"]) {
    let verdict = "PASS", detail = "";
    try {
      await check(mode);
    } catch (error) {
      detail = String(error).slice(0, 300);
      verdict = error.code === "unsupported_parameter" ? "SKIP" : "FAIL";
    }
    console.log(JSON.stringify({ client: `openai (Node) ${version}`, feature, mode, verdict, detail }));
    console.error(`${verdict} node: ${feature} (${mode})`);
  }
}
