"""Agents ask by the Model Context Protocol: with the scopes of their key, without ids of customers, and nothing that a
product's text says is done."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from service_world import build_shop, make_key, serving

from recllm.doors.service.agents import FOREIGN, TOOLS


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("agents") / "shop")


def rpc(client: Any, key: str, method: str, **params: Any) -> Any:
    """One request of the protocol by HTTP."""
    headers = {"X-API-Key": key, "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = client.post("/mcp/", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def call(client: Any, key: str, name: str, **arguments: Any) -> tuple[bool, str]:
    """(whether it is an error, all words of the answer)."""
    result = rpc(client, key, "tools/call", name=name, arguments=arguments)
    return bool(result.get("isError")), "\n".join(content["text"] for content in result["content"])


def test_an_agent_does_what_its_key_may(shop: Path) -> None:
    marketing, site = make_key(shop, "marketing"), make_key(shop, "recommend", name="Site")
    with serving(shop) as client:
        tools = {tool["name"]: tool for tool in rpc(client, site, "tools/list")["tools"]}
        assert tools.keys() == TOOLS.keys() and tools["search"]["inputSchema"]["required"] == ["query"]
        is_error, words = call(client, site, "recommend", user_id="u01", k=3)
        assert not is_error and words.startswith(FOREIGN) and "u01" not in words
        slate = json.loads(words.removeprefix(FOREIGN))
        assert len(slate["items"]) == 3 and slate["items"][0]["title"]
        assert call(client, site, "audience", items=[slate["items"][0]["item_id"]])[0]
        is_error, words = call(client, marketing, "audience", items=[slate["items"][0]["item_id"]])
        assert not is_error and "user_id" not in words and "u1_" not in words
        assert call(client, "rk_wrong", "recommend", user_id="u01")[0]
        is_error, words = call(client, site, "recommend", user_id="u01", k=10_000)
        assert is_error and "k" in words
        assert "there is no tool" in call(client, site, "erase", user_id="u01")[1]
        fields: dict[str, Any] = {"id": "spring", "channels": ["email"], "target": {"intent": "mixed"}}
        fields["sender"] = {"name": "Leaf", "address": "1 Market Street", "opt_out": "https://leaf.example/stop"}
        is_error, words = call(client, marketing, "draft_campaign", campaign=fields)
        assert not is_error, words
        assert "spring" in call(client, marketing, "campaigns")[1]


def test_standard_input_is_answered(shop: Path) -> None:
    key = make_key(shop, "recommend", name="Agent")

    async def ask() -> str:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "recllm", "mcp", "-w", str(shop)],
            env={**os.environ, "RECLLM_API_KEY": key},
        )
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            result = await session.call_tool("recommend", {"user_id": "u01", "k": 2})
            return "".join(content.text for content in result.content)

    words = anyio.run(ask)
    assert words.startswith(FOREIGN), words
    assert len(json.loads(words.removeprefix(FOREIGN))["items"]) == 2
