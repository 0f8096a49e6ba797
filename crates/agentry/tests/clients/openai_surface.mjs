// OpenAI's own client for Node.js against the OpenAI surface: URL KEY MODEL SLOW; see
// openai_surface.py, which goes further. Prints the steps as JSON when all was as it
// should be.
import assert from 'node:assert/strict';
import { pathToFileURL } from 'node:url';

const [url, key, model, slow, sdk] = process.argv.slice(2);
const { default: OpenAI } = await import(pathToFileURL(sdk));
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const done = [];

async function step(name, run) {
  await run();
  done.push(name);
}

const user = (content) => [{ role: 'user', content }];
const weather = {
  name: 'get_weather',
  description: 'The weather somewhere.',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
};
const schema = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};

async function all(items) {
  const collected = [];
  for await (const item of items) collected.push(item);
  return collected;
}

async function fails(kind, code, call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    assert.equal(error.code, code);
    return;
  }
  assert.fail(`expected ${code}`);
}

await step('models', async () => {
  const ids = (await all(client.models.list())).map((listed) => listed.id);
  assert.ok(ids.includes('simple_agent'), ids);
  assert.equal((await client.models.retrieve(model)).id, model);
});

await step('chat', async () => {
  const answer = await client.chat.completions.create({ model, messages: user('Good morning') });
  assert.equal(answer.choices[0].message.content, 'Good morning');
  assert.equal(answer.choices[0].finish_reason, 'stop');
});

await step('chat_stream', async () => {
  const stream = await client.chat.completions.create({
    model, messages: user('So early, so white'), stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await all(stream);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
  assert.equal(text, 'So early, so white');
  assert.ok(chunks.at(-1).usage.completion_tokens > 0);
});

await step('chat_tools', async () => {
  const tools = [{ type: 'function', function: weather }];
  const messages = user('How is the weather in Bonn?');
  const first = await client.chat.completions.create({ model, messages, tools });
  const said = first.choices[0].message;
  assert.deepEqual(JSON.parse(said.tool_calls[0].function.arguments), { city: 'Bonn' });
  messages.push(said, { role: 'tool', tool_call_id: said.tool_calls[0].id, content: 'Fog.' });
  const second = await client.chat.completions.create({ model, messages, tools });
  assert.equal(second.choices[0].message.content, 'Fog.');
  const streamed = client.chat.completions.stream({ model, messages: messages.slice(0, 1), tools });
  const final = await streamed.finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls[0].function.name, 'get_weather');
});

await step('chat_structured', async () => {
  const answer = await client.chat.completions.create({
    model, messages: user('Where?'),
    response_format: { type: 'json_schema', json_schema: { name: 'place', schema, strict: true } },
  });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { city: 'Bonn' });
});

await step('response', async () => {
  const answer = await client.responses.create({ model, input: 'Good morning' });
  assert.equal(answer.status, 'completed');
  assert.equal(answer.output_text, 'Good morning');
  const asked = await all(client.responses.inputItems.list(answer.id));
  assert.equal(asked[0].content[0].text, 'Good morning');
  const next = await client.responses.create({
    model, input: 'list', previous_response_id: answer.id,
  });
  assert.deepEqual(JSON.parse(next.output_text), ['Good morning', 'Good morning', 'list']);
  await client.responses.delete(answer.id);
  await fails(OpenAI.NotFoundError, 'not_found', () => client.responses.retrieve(answer.id));
});

await step('response_tools', async () => {
  const tools = [{ type: 'function', strict: false, ...weather }];
  const first = await client.responses.create({
    model, tools, input: 'How is the weather in Bonn?',
  });
  const call = first.output[0];
  assert.deepEqual(JSON.parse(call.arguments), { city: 'Bonn' });
  const second = await client.responses.create({
    model, tools, previous_response_id: first.id,
    input: [{ type: 'function_call_output', call_id: call.call_id, output: 'Fog.' }],
  });
  assert.equal(second.output_text, 'Fog.');
});

await step('response_unstored', async () => {
  const tools = [{ type: 'function', strict: false, ...weather }];
  const first = await client.responses.create({
    model, tools, store: false, input: 'How is the weather in Bonn?',
  });
  assert.equal(first.store, false);
  await fails(OpenAI.NotFoundError, 'not_found', () => client.responses.retrieve(first.id));
  const call = first.output[0];
  const input = [
    ...user('How is the weather in Bonn?'),
    { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'gAAA' },
    ...first.output,
    { type: 'function_call_output', call_id: call.call_id, output: 'Fog.' },
  ];
  const second = await client.responses.create({ model, tools, store: false, input });
  assert.equal(second.output_text, 'Fog.');
});

await step('response_stream', async () => {
  const stream = client.responses.stream({ model, input: 'So early, so white' });
  let text = '';
  for await (const event of stream) {
    if (event.type === 'response.output_text.delta') text += event.delta;
  }
  assert.equal(text, 'So early, so white');
  assert.equal((await stream.finalResponse()).output[0].content[0].text, text);
});

await step('response_background', async () => {
  const stream = await client.responses.create({
    model: slow, input: 'Take your time', background: true, stream: true,
  });
  let id, number;
  let text = '';
  for await (const event of stream) {
    id ??= event.response?.id;
    number = event.sequence_number;
    if (event.type === 'response.output_text.delta') {
      text += event.delta;
      break;
    }
  }
  const rest = await client.responses.retrieve(id, { stream: true, starting_after: number });
  for await (const event of rest) {
    assert.ok(event.sequence_number > number);
    number = event.sequence_number;
    if (event.type === 'response.output_text.delta') text += event.delta;
  }
  assert.equal(text, 'Take your time');
  const started = await client.responses.create({
    model: slow, input: 'x'.repeat(4000), background: true,
  });
  assert.equal((await client.responses.cancel(started.id)).status, 'cancelled');
});

await step('conversation', async () => {
  const made = await client.conversations.create({ metadata: { topic: 'weather' } });
  await client.responses.create({ model, conversation: made.id, input: 'one' });
  const items = await all(client.conversations.items.list(made.id, { order: 'asc' }));
  assert.deepEqual(items.map((item) => item.content[0].text), ['one', 'one']);
  await client.conversations.update(made.id, { metadata: { topic: 'fog' } });
  assert.deepEqual((await client.conversations.retrieve(made.id)).metadata, { topic: 'fog' });
  assert.ok((await client.conversations.delete(made.id)).deleted);
});

await step('errors', async () => {
  const chat = (more) => () => client.chat.completions.create({ model, messages: user('x'), ...more });
  const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'ak_nobody', maxRetries: 0 });
  await fails(OpenAI.AuthenticationError, 'unauthenticated', () => stranger.models.list());
  await fails(OpenAI.NotFoundError, 'not_found', chat({ model: 'nobody' }));
  await fails(OpenAI.UnprocessableEntityError, 'validation_failed', chat({ temperature: 9 }));
  await fails(OpenAI.UnprocessableEntityError, 'not_supported_yet', chat({ n: 2 }));
  await fails(OpenAI.InternalServerError, 'model_failed', chat({ messages: user('fail 500') }));
  await fails(OpenAI.RateLimitError, 'model_rate_limited', chat({ messages: user('fail 429') }));
});

console.log(JSON.stringify(done));
