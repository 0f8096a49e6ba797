"""OpenAI's own client against the OpenAI surface: URL KEY MODEL, where MODEL answers with
a call of get_weather first whenever that is offered and was not answered yet, with JSON
when a schema is asked for, and with the last message otherwise.

Prints one line of JSON when everything was as it should be.
"""

import json
import sys
import time

import openai
from openai import OpenAI

url, key, model, slow = sys.argv[1:5]
client = OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
done = []

WEATHER = {
    "name": "get_weather",
    "description": "The weather somewhere.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CHAT_TOOLS = [{"type": "function", "function": WEATHER}]
TOOLS = [{"type": "function", **WEATHER}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def step(function):
    """Runs a step, and keeps its name."""
    function()
    done.append(function.__name__)


def user(text):
    return [{"role": "user", "content": text}]


@step
def models():
    ids = [listed.id for listed in client.models.list()]
    assert "simple_agent" in ids, ids
    one = client.models.retrieve("simple_agent")
    assert (one.id, one.owned_by) == ("simple_agent", "agentry"), one
    assert client.models.retrieve(model).id == model
    try:
        client.models.retrieve("nobody")
        raise AssertionError("there is no such model")
    except openai.NotFoundError as error:
        assert error.code == "not_found", error


@step
def chat():
    answer = client.chat.completions.create(model=model, messages=user("Good morning"))
    assert answer.choices[0].message.content == "Good morning", answer
    assert answer.choices[0].finish_reason == "stop", answer
    assert answer.usage.prompt_tokens > 0 and answer.usage.total_tokens > 0, answer


@step
def chat_stream():
    pieces, usage, reasons = [], None, []
    with client.chat.completions.create(
        model=model, messages=user("So early, so white"), stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                reasons.append(choice.finish_reason)
    assert "".join(pieces) == "So early, so white", pieces
    assert reasons[-1] == "stop" and usage.completion_tokens > 0, (reasons, usage)


@step
def chat_image():
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": parts}])
    assert "data:image/png;base64,iVBORw0KGgo=" in answer.choices[0].message.content, answer


@step
def chat_tools():
    messages = user("How is the weather in Bonn?")
    first = client.chat.completions.create(model=model, messages=messages, tools=CHAT_TOOLS)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, first
    call = choice.message.tool_calls[0]
    assert call.function.name == "get_weather", call
    assert json.loads(call.function.arguments) == {"city": "Bonn"}, call
    messages.append(choice.message.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "Fog."})
    second = client.chat.completions.create(model=model, messages=messages, tools=CHAT_TOOLS)
    assert second.choices[0].message.content == "Fog.", second


@step
def chat_tools_stream():
    calls = {}
    with client.chat.completions.stream(
        model=model, messages=user("How is the weather in Bonn?"), tools=CHAT_TOOLS,
    ) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.done":
                calls[event.name] = event.arguments
        final = stream.get_final_completion()
    assert json.loads(calls["get_weather"]) == {"city": "Bonn"}, calls
    assert final.choices[0].finish_reason == "tool_calls", final


@step
def chat_structured():
    answer = client.chat.completions.create(
        model=model, messages=user("Where?"),
        response_format={"type": "json_schema",
                         "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}})
    assert json.loads(answer.choices[0].message.content) == {"city": "Bonn"}, answer


@step
def chat_session():
    first = client.chat.completions.with_raw_response.create(
        model=model, messages=user("one"), metadata={"session_name": "py"})
    session = first.headers["x-session-id"]
    again = client.chat.completions.with_raw_response.create(
        model=model, messages=user("two"), extra_headers={"X-Session-Id": session})
    assert again.headers["x-session-id"] == session


@step
def response():
    answer = client.responses.create(
        model=model, input="Good morning", instructions="Be brief.", temperature=0.5,
        metadata={"k": "v"})
    assert answer.status == "completed" and answer.output_text == "Good morning", answer
    assert answer.usage.input_tokens > 0 and answer.metadata == {"k": "v"}, answer
    assert answer.instructions == "Be brief." and answer.temperature == 0.5, answer
    again = client.responses.retrieve(answer.id)
    assert again.model_dump() == answer.model_dump(), (again, answer)
    asked = list(client.responses.input_items.list(answer.id))
    assert asked[0].content[0].text == "Good morning", asked
    client.responses.delete(answer.id)
    try:
        client.responses.retrieve(answer.id)
        raise AssertionError("it is gone")
    except openai.NotFoundError:
        pass


@step
def response_follows():
    first = client.responses.create(model=model, input="one")
    second = client.responses.create(model=model, input="two", previous_response_id=first.id)
    assert second.previous_response_id == first.id, second
    # A second one that follows the first knows nothing of the other.
    other = client.responses.create(model=model, input="list", previous_response_id=first.id)
    assert json.loads(other.output_text) == ["one", "one", "list"], other.output_text
    third = client.responses.create(model=model, input="list", previous_response_id=second.id)
    assert json.loads(third.output_text) == ["one", "one", "two", "two", "list"], third


@step
def response_tools():
    first = client.responses.create(
        model=model, input="How is the weather in Bonn?", tools=TOOLS)
    call = first.output[0]
    assert call.type == "function_call" and call.name == "get_weather", first
    assert json.loads(call.arguments) == {"city": "Bonn"}, call
    second = client.responses.create(
        model=model, tools=TOOLS, previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Fog."}])
    assert second.output_text == "Fog.", second


@step
def response_structured():
    answer = client.responses.create(
        model=model, input="Where?",
        text={"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}})
    assert json.loads(answer.output_text) == {"city": "Bonn"}, answer
    assert answer.text.format.type == "json_schema", answer


def check_events(events):
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers)), numbers


def gone(call):
    try:
        call()
    except openai.NotFoundError:
        return
    raise AssertionError("it was not to be kept")


@step
def response_unstored():
    answer = client.responses.create(
        model=model, input="Good morning", store=False, include=["message.input_image.image_url"])
    assert answer.status == "completed" and answer.output_text == "Good morning", answer
    assert answer.store is False and answer.usage.total_tokens > 0, answer
    gone(lambda: client.responses.retrieve(answer.id))
    gone(lambda: client.responses.input_items.list(answer.id))
    gone(lambda: client.responses.create(model=model, input="x", previous_response_id=answer.id))
    events = list(client.responses.create(model=model, input="So early", store=False, stream=True))
    check_events(events)
    final = events[-1].response
    assert events[-1].type == "response.completed" and final.output_text == "So early", events
    gone(lambda: client.responses.retrieve(final.id))
    # The conversation is the client's own then: all that came goes back, thoughts included.
    first = client.responses.create(
        model=model, input="How is the weather in Bonn?", tools=TOOLS, store=False)
    call = first.output[0]
    items = user("How is the weather in Bonn?")
    items.append({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"})
    items += [item.model_dump() for item in first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "Fog."})
    second = client.responses.create(model=model, input=items, tools=TOOLS, store=False)
    assert second.output_text == "Fog.", second
    items += [item.model_dump() for item in second.output]
    items += user("list")
    third = client.responses.create(model=model, input=items, store=False)
    said = json.loads(third.output_text)
    assert said == ["How is the weather in Bonn?", None, "Fog.", "Fog.", "list"], said


@step
def response_stream():
    events = list(client.responses.create(model=model, input="So early, so white", stream=True))
    check_events(events)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert kinds[-1] == "response.completed", kinds
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "So early, so white" == events[-1].response.output_text, text
    with client.responses.stream(
        model=model, input="How is the weather in Bonn?", tools=TOOLS,
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds, kinds
    assert final.output[0].name == "get_weather", final


@step
def response_background():
    started = client.responses.create(model=slow, input="Take your time", background=True)
    assert started.status in ("queued", "in_progress"), started
    # As far as it comes before the connection breaks ...
    had = []
    with client.responses.create(
        model=slow, input="Take your time", background=True, stream=True,
    ) as stream:
        for event in stream:
            had.append(event)
            if event.type == "response.output_text.delta":
                break
    id = had[0].response.id
    # ... and the rest, after it.
    rest = list(client.responses.retrieve(
        id, stream=True, starting_after=had[-1].sequence_number))
    events = had + rest
    check_events(events)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == "Take your time", text
    assert events[-1].type == "response.completed", events[-1]
    # Of one that is over all of it can be read again, from anywhere.
    again = list(client.responses.retrieve(id, stream=True))
    assert again[-1].response.output_text == text
    last = list(client.responses.retrieve(
        id, stream=True, starting_after=events[-2].sequence_number))
    assert [event.type for event in last] == ["response.completed"], last
    until = time.monotonic() + 30
    while client.responses.retrieve(started.id).status != "completed":
        assert time.monotonic() < until, "it does not end"


@step
def response_cancel():
    started = client.responses.create(model=slow, input="x" * 4000, background=True)
    cancelled = client.responses.cancel(started.id)
    assert cancelled.status == "cancelled", cancelled
    assert client.responses.retrieve(started.id).status == "cancelled"


@step
def conversation():
    made = client.conversations.create(
        metadata={"topic": "weather"},
        items=[{"type": "message", "role": "user", "content": "before"}])
    assert made.id.startswith("conv_") and made.metadata == {"topic": "weather"}, made
    answer = client.responses.create(model=model, conversation=made.id, input="one")
    assert answer.conversation.id == made.id, answer
    client.responses.create(model=model, conversation={"id": made.id}, input="two")
    items = list(client.conversations.items.list(made.id, order="asc", limit=2))
    texts = [item.content[0].text for item in items]
    assert texts == ["before", "one", "one", "two", "two"], texts
    reply = client.conversations.items.retrieve(answer.output[0].id, conversation_id=made.id)
    assert reply.id == answer.output[0].id and reply.content[0].text == "one", reply
    added = client.conversations.items.create(
        made.id, items=[{"type": "message", "role": "user", "content": "after"}])
    client.conversations.items.delete(added.data[0].id, conversation_id=made.id)
    assert len(list(client.conversations.items.list(made.id))) == 5
    changed = client.conversations.update(made.id, metadata={"topic": "fog"})
    assert client.conversations.retrieve(made.id).metadata == changed.metadata == {"topic": "fog"}
    # What a response was stays in its conversation when the response goes.
    client.responses.delete(answer.id)
    assert len(list(client.conversations.items.list(made.id))) == 5
    assert client.conversations.delete(made.id).deleted
    try:
        client.conversations.retrieve(made.id)
        raise AssertionError("it is gone")
    except openai.NotFoundError:
        pass


def fails(kind, code, call):
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind and error.code == code, (type(error), error.code, error)
        return error
    raise AssertionError(f"expected {kind} {code}")


@step
def errors():
    create = client.chat.completions.create
    respond = client.responses.create
    stranger = OpenAI(base_url=url + "/v1", api_key="ak_nobody", max_retries=0)
    fails(openai.AuthenticationError, "unauthenticated",
          lambda: stranger.chat.completions.create(model=model, messages=user("x")))
    fails(openai.NotFoundError, "not_found", lambda: create(model="nobody", messages=user("x")))
    fails(openai.NotFoundError, "not_found", lambda: respond(model="nobody", input="x"))
    fails(openai.NotFoundError, "not_found",
          lambda: respond(model=model, input="x", previous_response_id="resp_0"))
    broken = fails(openai.UnprocessableEntityError, "validation_failed",
                   lambda: create(model=model, messages=user("x"), temperature=9))
    assert broken.param == "temperature" and broken.type == "invalid_request_error", broken
    fails(openai.UnprocessableEntityError, "not_supported_yet",
          lambda: create(model=model, messages=user("x"), n=2))
    fails(openai.UnprocessableEntityError, "not_supported_yet",
          lambda: respond(model=model, input="x", include=["reasoning.encrypted_content"]))
    fails(openai.UnprocessableEntityError, "validation_failed",
          lambda: respond(model=model, input="x", store=False, background=True))
    for text, kind, code in [
        ("fail 500", openai.InternalServerError, "model_failed"),
        ("fail 429", openai.RateLimitError, "model_rate_limited"),
        ("fail 400", openai.InternalServerError, "model_rejected"),
    ]:
        fails(kind, code, lambda: create(model=model, messages=user(text)))
        fails(kind, code, lambda: respond(model=model, input=text))
    try:
        list(create(model=model, messages=user("fail 500"), stream=True))
        raise AssertionError("a stream that fails says so")
    except openai.APIError as error:
        assert error.code == "model_failed", error
    events = list(respond(model=model, input="fail 500", stream=True))
    assert events[-1].type == "response.failed", events
    assert events[-1].response.error.code == "model_failed", events[-1]


print(json.dumps(done))
