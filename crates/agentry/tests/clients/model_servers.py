"""The providers' own clients against the doubles of their servers: URL KEY.

For each provider, in this order, the server says a text, says it as a stream, calls two
functions, calls them in a stream, answers their results, and refuses with 429 and 401.
Prints the providers as JSON when each client understood all of it.
"""

import json
import sys

url, key = sys.argv[1:3]
TEXT = "Guten Morgen, liebe Welt ☃."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITIES = [{"city": "Bonn"}, {"city": "Köln"}]
done = []


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind}")


def openai():
    import openai

    client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
    create = client.chat.completions.create
    messages = [{"role": "user", "content": "Hello"}]
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
    whole = create(model="m", messages=messages)
    assert whole.choices[0].message.content == TEXT and whole.usage.total_tokens > 0, whole
    chunks = list(create(model="m", messages=messages, stream=True,
                         stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == TEXT and chunks[-1].usage.completion_tokens > 0, chunks
    called = create(model="m", messages=messages, tools=tools).choices[0]
    assert called.finish_reason == "tool_calls", called
    calls = called.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == CITIES, calls
    with client.chat.completions.stream(model="m", messages=messages, tools=tools) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in streamed] == CITIES, streamed
    messages.append(called.message.model_dump(exclude_none=True))
    for call in calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "Fog."})
    assert create(model="m", messages=messages, tools=tools).choices[0].message.content == TEXT
    raises(openai.RateLimitError, lambda: create(model="m", messages=messages))
    raises(openai.AuthenticationError, lambda: openai.OpenAI(
        base_url=url + "/v1", api_key="no", max_retries=0,
    ).chat.completions.create(model="m", messages=messages))


def anthropic():
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
    messages = [{"role": "user", "content": "Hello"}]
    tools = [{"name": "get_weather", "input_schema": SCHEMA}]
    ask = {"model": "m", "max_tokens": 100}
    whole = client.messages.create(messages=messages, **ask)
    assert whole.content[0].text == TEXT and whole.stop_reason == "end_turn", whole
    assert whole.usage.input_tokens > 0, whole
    with client.messages.stream(messages=messages, **ask) as stream:
        assert "".join(stream.text_stream) == TEXT
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn" and final.usage.output_tokens > 0, final
    called = client.messages.create(messages=messages, tools=tools, **ask)
    assert called.stop_reason == "tool_use", called
    assert [block.input for block in called.content] == CITIES, called
    with client.messages.stream(messages=messages, tools=tools, **ask) as stream:
        streamed = stream.get_final_message()
    assert [block.input for block in streamed.content] == CITIES, streamed
    messages.append({"role": "assistant", "content": [
        block.model_dump(exclude_none=True) for block in called.content]})
    messages.append({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": block.id, "content": "Fog."}
        for block in called.content]})
    assert client.messages.create(messages=messages, tools=tools, **ask).content[0].text == TEXT
    error = raises(anthropic.RateLimitError,
                   lambda: client.messages.create(messages=messages, **ask))
    assert error.body["error"]["type"] == "rate_limit_error", error.body
    raises(anthropic.AuthenticationError, lambda: anthropic.Anthropic(
        base_url=url, api_key="no", max_retries=0).messages.create(messages=messages, **ask))


def google():
    from google import genai
    from google.genai import errors, types

    def client(api_key):
        options = types.HttpOptions(base_url=url, api_version="v1beta")
        return genai.Client(api_key=api_key, http_options=options)

    declaration = types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declaration])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True))
    # A client closes when nobody has it.
    ours, stranger = client(key), client("no")
    models = ours.models
    whole = models.generate_content(model="m", contents="Hello")
    assert whole.text == TEXT and whole.usage_metadata.prompt_token_count > 0, whole
    assert whole.candidates[0].finish_reason == types.FinishReason.STOP, whole
    chunks = list(models.generate_content_stream(model="m", contents="Hello"))
    assert "".join(chunk.text or "" for chunk in chunks) == TEXT, chunks
    called = models.generate_content(model="m", contents="Hello", config=config)
    assert [call.args for call in called.function_calls] == CITIES, called
    chunks = models.generate_content_stream(model="m", contents="Hello", config=config)
    streamed = [call.args for chunk in chunks for call in chunk.function_calls or []]
    assert streamed == CITIES, streamed
    results = [types.Part.from_function_response(name=call.name, response={"output": "Fog."})
               for call in called.function_calls]
    contents = [types.Content(role="user", parts=[types.Part(text="Hello")]),
                called.candidates[0].content, types.Content(role="user", parts=results)]
    assert models.generate_content(model="m", contents=contents, config=config).text == TEXT
    error = raises(errors.ClientError,
                   lambda: models.generate_content(model="m", contents="Hello"))
    assert error.code == 429 and error.status == "RESOURCE_EXHAUSTED", error
    error = raises(errors.ClientError,
                   lambda: stranger.models.generate_content(model="m", contents="Hello"))
    assert error.code == 401, error


def ollama():
    import ollama

    def client(api_key):
        return ollama.Client(host=url, headers={"Authorization": f"Bearer {api_key}"})

    chat = client(key).chat
    messages = [{"role": "user", "content": "Hello"}]
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
    whole = chat(model="m", messages=messages)
    assert whole.message.content == TEXT and whole.done and whole.eval_count > 0, whole
    chunks = list(chat(model="m", messages=messages, stream=True))
    assert "".join(chunk.message.content or "" for chunk in chunks) == TEXT, chunks
    assert chunks[-1].done_reason == "stop" and chunks[-1].prompt_eval_count > 0, chunks[-1]
    called = chat(model="m", messages=messages, tools=tools).message
    assert [call.function.arguments for call in called.tool_calls] == CITIES, called
    chunks = list(chat(model="m", messages=messages, tools=tools, stream=True))
    streamed = [call.function.arguments for chunk in chunks
                for call in chunk.message.tool_calls or []]
    assert streamed == CITIES, streamed
    messages.append(called.model_dump(exclude_none=True))
    for call in called.tool_calls:
        messages.append({"role": "tool", "tool_name": call.function.name, "content": "Fog."})
    assert chat(model="m", messages=messages, tools=tools).message.content == TEXT
    error = raises(ollama.ResponseError, lambda: chat(model="m", messages=messages))
    assert error.status_code == 429, error
    error = raises(ollama.ResponseError,
                   lambda: client("no").chat(model="m", messages=messages))
    assert error.status_code == 401, error


for provider in [openai, anthropic, google, ollama]:
    provider()
    done.append(provider.__name__)
print(json.dumps(done))
