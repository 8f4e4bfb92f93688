// What tests/test_node.py plays against a real server: node plays.mjs PLAY HOST:PORT [MORE…].
// Each play prints one line of JSON.
import { randomUUID } from 'node:crypto';
import { call, CellarError, connect, retrying } from '../../examples/node/cellar.js';
import { SessionStream } from '../../examples/node/session.js';

const [play, address, ...more] = process.argv.slice(2);
const { CELLAR_TOKEN: token, ...files } = process.env;
const { PLAY_CA: ca, PLAY_CERT: cert, PLAY_KEY: key } = files;
const client = connect(address, { ca, cert, key, token });
const ids = (count) => Array.from({ length: count }, () => randomUUID());
const refusal = (promise) =>
  promise.then(
    () => ({ reason: 'none' }),
    ({ name, message, ...told }) => told,
  );

const PLAYS = {
  // Groups of sessions read a text letter by letter, all groups at once; says what they were told.
  async stream(text, groups, size, window) {
    const start = { model: 'stdlib-text', outputs: { topK: 2 }, window: Number(window) };
    const stream = new SessionStream(client, start);
    const told = [];
    let replayed = 0;
    const read = async () => {
      const channels = await stream.attach(ids(Number(size)));
      const own = new Map(channels.map((channel) => [channel, []]));
      for (const letter of text) {
        const rows = await stream.step(channels, { text: letter.repeat(channels.length) });
        for (const [channel, row] of rows) {
          if (row.error) throw row.error;
          own.get(channel).push(row.predictions.topTokens);
          replayed += row.replayed;
        }
      }
      for (const channel of channels) {
        told.push({ position: stream.position(channel), tokens: own.get(channel) });
      }
    };
    await Promise.all(Array.from({ length: Number(groups) }, read));
    await stream.close({ closeSessions: true });
    return { told, replayed };
  },

  // Somebody else resets a session that is on a stream; then the server's sessions run out.
  async refusals() {
    const [sessionId] = ids(1);
    const { session } = await call(client.sessions, 'OpenSession', {
      sessionId,
      model: 'stdlib-text',
    });
    const step = { sessionId, inputs: { text: 'a\u4e00' } };
    const badInput = await refusal(call(client.sessions, 'Step', step));
    const stream = new SessionStream(client, { model: 'stdlib-text' });
    const [channel] = await stream.attach([sessionId], { open: false });
    const fresh = await call(client.sessions, 'ResetSession', { sessionId });
    const row = (await stream.step([channel], { text: 'a' })).get(channel);
    const { code, reason, facts } = row.error;
    const full = await refusal(stream.attach(ids(1)));
    const stranger = await refusal(stream.attach(ids(1), { open: false }));
    await stream.close();
    const branches = [session.branch, fresh.session.branch];
    return { badInput, stale: { code, reason, facts }, full, stranger, branches };
  },

  // Waits for a server that is not there yet; a stream gives up in the end.
  async absent() {
    const error = await retrying(() => call(client.models, 'ListModels', {}), {
      timeoutS: 0.5,
    }).catch((error) => error);
    const stream = new SessionStream(client, { model: 'stdlib-text', patienceS: 0.5 });
    const given = await refusal(stream.attach(ids(1)));
    return { ours: error instanceof CellarError, code: error.code, given };
  },

  // Each kind of call once, with what the environment has to show.
  async access() {
    const [sessionId] = ids(1);
    const told = {};
    const note = (name, promise) => refusal(promise).then(({ reason }) => (told[name] = reason));
    await note('ListModels', call(client.models, 'ListModels', {}));
    await note('OpenSession', call(client.sessions, 'OpenSession', { sessionId, model: 'char' }));
    await note('Generate', (async () => {
      try {
        const request = { sessionId, prompt: { text: 'a' }, maxSteps: 2 };
        for await (const _ of client.sessions.Generate(request));
      } catch (error) {
        throw new CellarError(error);
      }
    })());
    const stream = new SessionStream(client, { model: 'char', patienceS: 1 });
    await note('Stream', stream.attach(ids(1)));
    if (told.Stream === 'none') await stream.close({ closeSessions: true });
    return told;
  },

  // What is asked for last can be told from the answer alone.
  async shapes() {
    const [text, prices] = ids(2);
    const open = (sessionId, model) => call(client.sessions, 'OpenSession', { sessionId, model });
    const step = (sessionId, inputs, outputs) =>
      call(client.sessions, 'Step', { sessionId, inputs, outputs });
    await open(text, 'stdlib-text');
    await open(prices, 'synthetic-prices');
    const top = await step(text, { text: 'impor' }, { topK: 3, everyStep: true });
    const quantiles = await step(prices, { values: { data: [101, 102] } }, undefined);
    const forecast = await call(client.sessions, 'Forecast', { sessionId: prices, horizon: 4 });
    const predicted = await call(client.models, 'Predict', {
      model: 'stdlib-text',
      inputs: { text: 'import' },
      steps: [4, 2],
      outputs: { topK: 3 },
    });
    const stream = client.sessions.Stream();
    stream.end({ start: { model: 'synthetic-prices' } });
    const [{ started }] = await stream.toArray();
    return { top, quantiles, forecast, predicted, started };
  },

  // Sessions that a stream opens may end with it.
  async ephemeral() {
    const stream = new SessionStream(client, { model: 'stdlib-text' });
    const [id] = ids(1);
    await stream.attach([id], { ephemeral: true, idleTimeout: { seconds: 60 } });
    const { session } = await call(client.sessions, 'GetSession', { sessionId: id });
    await stream.close({ closeSessions: true });
    return { ephemeral: session.ephemeral, idleS: Number(session.idleTimeout.seconds) };
  },

  // A generation is left in the middle: settling says where the session stands.
  async generation() {
    const [sessionId] = ids(1);
    await call(client.sessions, 'OpenSession', { sessionId, model: 'stdlib-text' });
    const request = { sessionId, prompt: { text: 'def ' }, maxSteps: 50000 };
    const pieces = client.sessions.Generate(request);
    let position = 0;
    for await (const piece of pieces) {
      position = Number(piece.position);
      if (position > 20) break; // leaving the loop cancels the call
    }
    const { session } = await call(client.sessions, 'GetSession', { sessionId, settle: true });
    const settled = Number(session.position);
    const step = { sessionId, position: settled, branch: session.branch, inputs: { text: 'a' } };
    return { told: position, settled, after: (await call(client.sessions, 'Step', step)).position };
  },
};

console.log(JSON.stringify(await PLAYS[play](...more)));
client.close();
