"""Frameworks over openai's client, in an environment that has them: one span and one recorded call a model call."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pytest

from compat.model_server import CITY, TEXT, ModelServer
from compat.watching import Watching

# Warnings while the frameworks are imported and used are their own.
pytestmark = [pytest.mark.vendors, pytest.mark.filterwarnings("ignore")]

Way = Callable[[Callable[[], Any], Callable[[Any], Any]], Any]
"""Makes a framework's object with its client observed: takes what makes it, and what names its openai clients."""


class City(pydantic.BaseModel):
    """What is asked for."""

    city: str
    celsius: int


@pytest.fixture(params=["client", "global"])
def observed(request: pytest.FixtureRequest, watching: Watching) -> Way:
    """Both ways to instrument; the server's host is not known to report usage in streams, so it is asked to."""

    def one(make: Callable[[], Any], clients: Callable[[Any], Any]) -> Any:
        made = make()
        for client in clients(made):
            assert watching.instrument(client, task="framework", stream_usage=True) is client
        return made

    def all_of_them(make: Callable[[], Any], clients: Callable[[Any], Any]) -> Any:
        assert watching.instrument(task="framework", stream_usage=True) is None
        return make()

    return one if request.param == "client" else all_of_them


# -- LangChain ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def chat_openai(models: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes LangChain's ChatOpenAI."""
    module = importlib.import_module("langchain_openai")
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")
    return lambda: module.ChatOpenAI(model="gpt-5-mini", base_url=models.url, api_key="none", max_retries=0)


def _langchain_clients(model: Any) -> Any:
    return model.root_client, model.root_async_client


def _message(value: Any) -> Any:
    """A message as plain values, without the id that LangChain draws for its run."""
    return {name: inner for name, inner in value.model_dump().items() if name != "id"}


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all tests: LangChain keeps its connections in a cache of its own."""
    with asyncio.Runner() as runner:
        yield runner


def _langchain(name: str, loop: asyncio.Runner) -> Callable[[Any], Any]:
    """One use of a model, as plain values."""

    async def ainvoke(model: Any) -> Any:
        return _message(await model.ainvoke("Say hello."))

    async def astream(model: Any) -> Any:
        return [_message(chunk) async for chunk in model.astream("Say hello.")]

    async def astructured(model: Any) -> Any:
        return await model.with_structured_output(City).ainvoke("Where?")

    uses: dict[str, Callable[[Any], Any]] = {
        "invoke": lambda model: _message(model.invoke("Say hello.")),
        "stream": lambda model: [_message(chunk) for chunk in model.stream("Say hello.")],
        "ainvoke": lambda model: loop.run(ainvoke(model)),
        "astream": lambda model: loop.run(astream(model)),
        "structured": lambda model: model.with_structured_output(City).invoke("Where?"),
        "structured by tool": lambda model: model.with_structured_output(City, method="function_calling").invoke("?"),
        "structured by json mode": lambda model: model.with_structured_output(City, method="json_mode").invoke("JSON?"),
        "structured stream": lambda model: list(model.with_structured_output(City).stream("Where?")),
        "astructured": lambda model: loop.run(astructured(model)),
    }
    return uses[name]


@pytest.mark.parametrize(
    "name",
    [
        "invoke", "stream", "ainvoke", "astream", "structured", "structured by tool", "structured by json mode",
        "structured stream", "astructured",
    ],
)  # fmt: skip
def test_langchain(
    chat_openai: Callable[[], Any], watching: Watching, observed: Way, loop: asyncio.Runner, name: str
) -> None:
    """ChatOpenAI gives what it gives over a bare client, and each use is one call with its tokens."""
    use = _langchain(name, loop)
    bare = use(chat_openai())
    model = observed(chat_openai, _langchain_clients)
    assert use(model) == bare
    watching.check(1)
    (row,) = watching.rows()
    assert (row.task, row.stream) == ("framework", "stream" in name)
    assert row.json_form == ("plain" if name.startswith(("structured", "astructured")) and "tool" not in name else None)


@pytest.mark.parametrize("name", ["invoke", "stream"])
def test_langchain_on_the_responses_api(
    chat_openai: Callable[[], Any], watching: Watching, observed: Way, loop: asyncio.Runner, name: str
) -> None:
    """With `use_responses_api` alike."""
    use = _langchain(name, loop)

    def make() -> Any:
        return chat_openai().model_copy(update={"use_responses_api": True})

    bare = use(make())
    assert use(observed(make, _langchain_clients)) == bare
    watching.check(1)
    (row,) = watching.rows()
    assert row.api_type == "responses"


def test_langchain_that_asks_for_usage_itself(
    chat_openai: Callable[[], Any], watching: Watching, observed: Way, loop: asyncio.Runner
) -> None:
    """With `stream_usage=True` LangChain reads the usage chunk: it still gets it, and the tokens are counted once."""

    def make() -> Any:
        return chat_openai().model_copy(update={"stream_usage": True})

    use = _langchain("stream", loop)
    bare = use(make())
    assert [chunk["usage_metadata"]["output_tokens"] for chunk in bare if chunk["usage_metadata"]] == [5]
    assert use(observed(make, _langchain_clients)) == bare
    watching.check(1)


def test_langchain_left_early(chat_openai: Callable[[], Any], watching: Watching, observed: Way) -> None:
    """A LangChain stream that is closed early ends the call as cancelled."""
    model = observed(chat_openai, _langchain_clients)
    chunks = model.stream("Say hello.")
    next(chunks)
    chunks.close()
    (row,) = watching.rows()
    assert row.outcome == "cancelled"
    assert len(watching.spans()) == 1


# -- the OpenAI Agents SDK -----------------------------------------------------------------------------------------------


@pytest.fixture
def agents() -> Any:
    """The package, with its own tracing (which would send to OpenAI) off."""
    module = importlib.import_module("agents")
    module.set_tracing_disabled(True)
    return module


class _Agent:
    """An agent with a tool, and the client that it talks through."""

    def __init__(self, agents: Any, models: ModelServer, kind: str) -> None:
        openai = importlib.import_module("openai")
        self.client = openai.AsyncOpenAI(base_url=models.url, api_key="none", max_retries=0)
        model_class = agents.OpenAIChatCompletionsModel if kind == "chat" else agents.OpenAIResponsesModel
        model = model_class(model="gpt-5-mini", openai_client=self.client)

        @agents.function_tool  # type: ignore[untyped-decorator]
        def weather(city: str) -> str:
            """The weather of a city."""
            return f"21 degrees in {city}"

        self.plain = agents.Agent(name="plain", model=model)
        self.tooled = agents.Agent(name="tooled", model=model, tools=[weather])
        self.typed = agents.Agent(name="typed", model=model, output_type=City)


@pytest.mark.parametrize("way", ["run", "run_streamed"])
@pytest.mark.parametrize("kind", ["chat", "responses"])
@pytest.mark.parametrize(("agent", "calls"), [("plain", 1), ("tooled", 2), ("typed", 1)])
def test_openai_agents(
    agents: Any, models: ModelServer, watching: Watching, observed: Way, kind: str, way: str, agent: str, calls: int
) -> None:
    """`Runner.run` and `run_streamed` over both APIs: as many calls as the model was asked, and the bare result."""

    def use(made: _Agent) -> Any:
        async def go() -> Any:
            if way == "run":
                result = await agents.Runner.run(getattr(made, agent), "Say hello.")
                events = []
            else:
                result = agents.Runner.run_streamed(getattr(made, agent), "Say hello.")
                events = [event.type async for event in result.stream_events()]
            items = [item.to_input_item() for item in result.new_items]
            used = [(one.usage.input_tokens, one.usage.output_tokens) for one in result.raw_responses]
            await made.client.close()
            return result.final_output, items, used, events

        return asyncio.run(go())

    def make() -> _Agent:
        return _Agent(agents, models, kind)

    bare = use(make())
    assert bare[0] == (City(**CITY) if agent == "typed" else TEXT)
    models.bodies.clear()
    assert use(observed(make, lambda made: [made.client])) == bare
    assert len(models.bodies) == calls
    watching.check(calls)
    assert {row.task for row in watching.rows()} == {"framework"}


# -- pydantic-ai ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pydantic_ai() -> Any:
    """The package."""
    return importlib.import_module("pydantic_ai")


class _PydanticAi:
    """Agents of pydantic-ai over a provider that makes its own client."""

    def __init__(self, pydantic_ai: Any, models: ModelServer, kind: str) -> None:
        openai_models = importlib.import_module("pydantic_ai.models.openai")
        provider = importlib.import_module("pydantic_ai.providers.openai").OpenAIProvider(
            base_url=models.url, api_key="none"
        )
        self.client = provider.client
        model_class = openai_models.OpenAIChatModel if kind == "chat" else openai_models.OpenAIResponsesModel
        model = model_class("gpt-5-mini", provider=provider)
        self.plain = pydantic_ai.Agent(model)
        self.typed = pydantic_ai.Agent(model, output_type=City)
        self.native = pydantic_ai.Agent(model, output_type=pydantic_ai.NativeOutput(City))
        self.tooled = pydantic_ai.Agent(model)

        @self.tooled.tool_plain  # type: ignore[untyped-decorator]
        def weather(city: str) -> str:
            """The weather of a city."""
            return f"21 degrees in {city}"


def _parts(result: Any) -> Any:
    """What a run of pydantic-ai exchanged: kinds and contents of all parts."""
    return [(part.part_kind, getattr(part, "content", None)) for one in result.all_messages() for part in one.parts]


@pytest.mark.parametrize("way", ["run", "run_stream"])
@pytest.mark.parametrize("kind", ["chat", "responses"])
@pytest.mark.parametrize(("agent", "calls"), [("plain", 1), ("typed", 1), ("native", 1), ("tooled", 2)])
def test_pydantic_ai(
    pydantic_ai: Any,
    models: ModelServer,
    watching: Watching,
    observed: Way,
    kind: str,
    way: str,
    agent: str,
    calls: int,
) -> None:
    """`run` and `run_stream`, text, structured by tool and by schema, with a tool: one call per model request."""

    def use(made: _PydanticAi) -> Any:
        async def go() -> Any:
            if way == "run":
                result = await getattr(made, agent).run("Say hello.")
                output, seen = result.output, []
            else:
                async with getattr(made, agent).run_stream("Say hello.") as result:
                    seen = [str(one) async for one in result.stream_output(debounce_by=None)]
                    output = await result.get_output()
            usage = result.usage() if callable(result.usage) else result.usage
            found = output, seen, _parts(result), (usage.requests, usage.input_tokens, usage.output_tokens)
            await made.client.close()
            return found

        return asyncio.run(go())

    def make() -> _PydanticAi:
        return _PydanticAi(pydantic_ai, models, kind)

    bare = use(make())
    assert bare[0] == (City(**CITY) if agent in ("typed", "native") else TEXT)
    models.bodies.clear()
    assert use(observed(make, lambda made: [made.client])) == bare
    assert len(models.bodies) == calls
    watching.check(calls)
