// A tour: node main.js [HOST:PORT] [--tls] [--ca FILE] [--cert FILE --key FILE], beside a cellar-serve
// with the models that come with Cellar. A token comes from the variable CELLAR_TOKEN.
import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { call, CellarError, connect, retrying } from './cellar.js';
import { SessionStream } from './session.js';

const file = { type: 'string' };
const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { tls: { type: 'boolean' }, ca: file, cert: file, key: file },
});
const token = process.env.CELLAR_TOKEN?.trim();
const client = connect(positionals[0] ?? 'localhost:8001', { ...values, token });

// What is served. Who waits at a terminal is told for what, once.
let told = false;
const onRetry = ({ message }) => {
  if (!told) console.error(`trying again: ${message}`);
  told = true;
};
const { models } = await retrying(() => call(client.models, 'ListModels', {}), { onRetry });
console.log(models.map(({ name, version }) => `${name} ${version}`).join(', '));

// One session: open, step, generate. Under an id of your own, a step that carries its position may
// be sent as often as it takes.
const sessionId = randomUUID();
await call(client.sessions, 'OpenSession', { sessionId, model: 'stdlib-text' });
const step = { sessionId, position: 0, inputs: { text: 'impor' }, outputs: { topK: 3 } };
const { position, predictions } = await retrying(() => call(client.sessions, 'Step', step));
const chances = predictions.topProbabilities.map((chance) => chance.toFixed(2));
console.log(`after ${position} steps:`, predictions.topSymbols, chances);

const prompt = { sessionId, maxSteps: 40, sampling: { temperature: 0.5, seed: 1 } };
let text = '';
for await (const piece of client.sessions.Generate(prompt)) text += piece.text;
console.log('impor' + text);
await call(client.sessions, 'CloseSession', { sessionId });

// What is refused says why, and which field.
try {
  await call(client.sessions, 'Step', step);
} catch (error) {
  if (!(error instanceof CellarError)) throw error;
  console.log(error.reason, error.facts, error.message);
}

// Many sessions on one stream.
const stream = new SessionStream(client, { model: 'stdlib-text', outputs: { argmax: true } });
const channels = await stream.attach(Array.from({ length: 100 }, () => randomUUID()));
for (const letter of 'return') {
  const rows = await stream.step(channels, { text: letter.repeat(channels.length) });
  const [first] = rows.values();
  console.log(`${rows.size} sessions at position ${first.position}`);
}
await stream.close({ closeSessions: true });
client.close();
