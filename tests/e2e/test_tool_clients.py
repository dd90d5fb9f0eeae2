"""Tools and structured output through the clients that people use: what they parse keeps to its schema."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import requests
from langchain_cloudflare import ChatCloudflareWorkersAI
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from tests.e2e.node import NODE, NODE_FOLDER, NODE_MODULES
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, GEMLORA, MODEL, RunningServer, running_server
from tests.e2e.test_workers import running_worker

QUESTION = "What is the weather in Paris?"

AI_SDK = """
import { generateText, Output, tool } from "ai";
import { createWorkersAI } from "workers-ai-provider";
import { z } from "zod";

const local = (url, options) => fetch(String(url).replace("https://api.cloudflare.com", process.env.BASE), options);
const workersai = createWorkersAI({ accountId: process.env.ACCOUNT_ID, apiKey: process.env.API_TOKEN, fetch: local });
const asked = {
  model: workersai("@cf/google/gemma-7b-it-lora"), prompt: process.env.QUESTION, temperature: 0, maxOutputTokens: 200,
};
const schema = z.object({ days: z.number().int(), cold: z.boolean() });
const tools = { weather: tool({ description: "The weather", inputSchema: schema }) };
const { toolCalls } = await generateText({ ...asked, tools, toolChoice: "required" });
const { output } = await generateText({ ...asked, output: Output.object({ schema }) });
console.log(JSON.stringify({ calls: toolCalls.map((call) => [call.toolName, call.input]), output }));
"""

AI_UTILS = """
import { runWithTools } from "@cloudflare/ai-utils";

export default {
  async fetch(request: Request, env: { AI: any }) {
    const called: unknown[] = [];
    // The library leaves the choice to the model; here it has none.
    const run = (model: string, inputs: any) =>
      env.AI.run(model, inputs.tools ? { ...inputs, tool_choice: "required" } : inputs);
    const number = { type: "number" };
    const add = {
      name: "add", description: "Adds",
      parameters: { type: "object", properties: { a: number, b: number }, required: ["a", "b"] },
      function: async (args: any) => { called.push(args); return String(args.a + args.b); },
    };
    const messages = [{ role: "user", content: "What is 3 + 4?" }];
    const answer = await runWithTools({ run } as any, "@cf/google/gemma-7b-it-lora", { messages, tools: [add] });
    return Response.json({ answer, called });
  },
};
"""


class Weather(BaseModel):
    """The weather in a place."""

    days: int
    cold: bool


@pytest.fixture(scope="module")
def fake_server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[RunningServer]:
    """Its engine keeps to grammars, and to nothing else."""
    with running_server(tmp_path_factory.mktemp("tools") / "data", cache_dir, "--engine", "fake") as server:
        yield server


@pytest.fixture
def langchain(fake_server: RunningServer) -> Iterator[ChatCloudflareWorkersAI]:
    model = ChatCloudflareWorkersAI(
        base_url=f"{fake_server.url}/client/v4", account_id=ACCOUNT_ID, api_token=API_TOKEN, model=MODEL,
        temperature=0, max_tokens=200,
    )  # fmt: skip
    yield model
    model.client.close()


def test_langchain_gets_a_call_whose_arguments_keep_to_the_tool(langchain: ChatCloudflareWorkersAI) -> None:
    (call, *_) = langchain.bind_tools([Weather], tool_choice="any").invoke(QUESTION).tool_calls

    assert call["name"] == "Weather"
    Weather.model_validate(call["args"], strict=True)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the library's own model
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Weather, Weather.model_json_schema()], ids=["model", "schema"])
def test_langchain_s_structured_output_keeps_to_the_schema_whole_and_streamed(
    fake_server: RunningServer, method: Literal["json_schema", "function_calling"], schema: Any
) -> None:
    base_url = f"{fake_server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/v1"
    model = ChatOpenAI(base_url=base_url, api_key=API_TOKEN, model=MODEL, temperature=0, max_tokens=200, max_retries=0)
    structured = model.with_structured_output(schema, method=method)

    whole, *_, streamed = structured.invoke(QUESTION), *structured.stream(QUESTION)

    for found in (whole, streamed):
        Weather.model_validate(found, strict=True)


def test_langchain_s_json_mode_gets_an_object(fake_server: RunningServer, langchain: ChatCloudflareWorkersAI) -> None:
    base_url = f"{fake_server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/v1"
    openai = ChatOpenAI(base_url=base_url, api_key=API_TOKEN, model=MODEL, temperature=0, max_tokens=200, max_retries=0)

    for model in (openai, langchain):
        assert isinstance(model.with_structured_output(None, method="json_mode").invoke(QUESTION), dict)


def test_the_ai_sdk_gets_a_call_and_an_object(fake_server: RunningServer) -> None:
    environment = {"BASE": fake_server.url, "ACCOUNT_ID": ACCOUNT_ID, "API_TOKEN": API_TOKEN, "QUESTION": QUESTION}
    finished = subprocess.run(
        [NODE, "--input-type=module", "--eval", AI_SDK],
        cwd=NODE_FOLDER, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr

    seen = json.loads(finished.stdout)
    assert {name for name, _ in seen["calls"]} == {"weather"}
    for found in [seen["output"], *(arguments for _, arguments in seen["calls"])]:
        Weather.model_validate(found, strict=True)


def test_ai_utils_runs_the_tool_that_the_model_calls(fake_server: RunningServer, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    subprocess.run([GEMLORA, "worker", "init", folder], check=True, timeout=120)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "src/tools.ts").write_text(AI_UTILS)
    command = ["node", "start.mjs", "src/tools.ts"]
    with running_worker(folder, command, GEMLORA_URL=fake_server.url, GEMLORA_API_TOKEN=API_TOKEN) as address:
        seen = requests.get(address, timeout=120).json()

    (arguments,) = seen["called"]
    assert arguments.keys() == {"a", "b"}
    assert all(isinstance(value, int | float) for value in arguments.values())
    assert seen["answer"]["response"]
