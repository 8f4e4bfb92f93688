// Many sessions on one stream: the loop that a client in any language has to have.
//
// The rules it keeps, each where it is kept below:
//   1. the first message is start; a session is attached before a frame names its channel
//   2. a frame carries the position of each channel, and a channel has one frame under way at most:
//      the server repeats the answer to a session's last step, and to no step before it
//   3. answers are matched by StreamReply.frame; those to one frame may come in several messages
//   4. when the connection breaks: start, attach with the branches, send what was not answered
//      again as it was; what had been applied is answered again, and applied once
//   5. nobody sends without end: a window of frames, and gRPC's own word for a full pipe
import { setTimeout as sleep } from 'node:timers/promises';
import grpc from '@grpc/grpc-js';
import { CellarError, pauseAfter } from './cellar.js';

export class SessionStream {
  #client;
  #start;
  #window;
  #patienceS;
  #call = null; // null while there is no connection, or it is not ready for frames yet
  #blocked = false; // gRPC has enough for now
  #failures = 0; // since something was last answered
  #closed = false;
  #error = null; // what ended it for good
  #channels = new Map(); // channel -> {id, position, branch}
  #attaches = []; // {sessions: channel -> id, open, …}, in the order asked
  #frames = new Map(); // number -> {message, waiting: channels, rows, …}, in the order sent
  #lastChannel = 0;
  #lastFrame = 0;
  #waiters = []; // for room
  #lastBreak = 0;

  // start is what cellar.v1.StreamStart has: the model, and the outputs of every step. window is
  // how many frames are under way at most, patienceS for how long a connection is sought before all
  // that waits fails.
  constructor({ sessions }, { window = 64, patienceS = 30, ...start } = {}) {
    this.#client = sessions;
    this.#start = start;
    this.#window = window;
    this.#patienceS = patienceS;
    this.#connect();
  }

  // Opens sessions, and resolves to their channels; with open: false they are open already. opening
  // is what else cellar.v1.StreamAttach has for new ones: ephemeral, idleTimeout: { seconds }.
  attach(ids, { open = true, ...opening } = {}) {
    if (this.#error) return Promise.reject(this.#error);
    const sessions = new Map(ids.map((id) => [++this.#lastChannel, id]));
    return new Promise((resolve, reject) => {
      const waiting = new Set(sessions.keys());
      const asked = { sessions, waiting, open, opening, resolve, reject };
      const attach = { ...asked, sent: false, again: false };
      this.#attaches.push(attach);
      if (this.#call) this.#sendAttach(attach, open);
    });
  }

  // Steps channels, and resolves to their rows by channel, {position, replayed, predictions} or
  // {error}. The inputs are those of all channels, one after the other; steps says how many each
  // has, one if it is left out. A row that was refused has changed nothing: step it again.
  async step(channels, inputs, steps = []) {
    while (!this.#error && (!this.#call || this.#blocked || this.#frames.size >= this.#window)) {
      await new Promise((resolve) => this.#waiters.push(resolve)); // rule 5
    }
    if (this.#error) throw this.#error;
    for (const frame of this.#frames.values()) {
      const busy = channels.find((channel) => frame.waiting.has(channel));
      if (busy !== undefined) throw new Error(`channel ${busy} has a step under way`); // rule 2
    }
    const known = channels.map((channel) => this.#channels.get(channel));
    if (known.includes(undefined)) throw new Error('attach a channel before it steps');
    const number = ++this.#lastFrame;
    const positions = known.map(({ position }) => position);
    const message = { channels, steps, positions, inputs, number };
    return new Promise((resolve, reject) => {
      const frame = { message, waiting: new Set(channels), rows: new Map(), resolve, reject };
      this.#frames.set(number, frame);
      this.#write({ frame: message });
    });
  }

  position(channel) {
    return this.#channels.get(channel)?.position;
  }

  // Ends the stream once all is answered; the sessions stay open unless they are closed with it.
  async close({ closeSessions = false } = {}) {
    while (!this.#error && (!this.#call || this.#frames.size || this.#attaches.length)) {
      await new Promise((resolve) => this.#waiters.push(resolve));
    }
    this.#closed = true;
    if (this.#error) return;
    const ended = new Promise((resolve) => this.#waiters.push(resolve));
    const channels = [...this.#channels.keys()];
    if (closeSessions) this.#write({ detach: { channels, close: true } });
    this.#call.end();
    await ended;
  }

  // ---- the connection ----

  #connect() {
    const call = this.#client.Stream();
    call.on('data', (response) => this.#receive(call, response));
    call.on('drain', () => this.#tellBlocked(false));
    call.on('error', (error) => this.#broken(new CellarError(error)));
    call.on('end', () => this.#closed && this.#wake());
    call.write({ start: this.#start }); // rule 1
  }

  #started(call) {
    if (!this.#channels.size) return this.#ready(call);
    // Rule 4: back to the sessions that were here, on the very past that they had.
    const channels = [...this.#channels.keys()];
    const known = [...this.#channels.values()];
    const sessionIds = known.map(({ id }) => id);
    const branches = known.map(({ branch }) => branch);
    const sessions = new Map(channels.map((channel, row) => [channel, sessionIds[row]]));
    const resolve = () => this.#ready(call);
    this.#attaches.unshift({ sessions, waiting: new Set(channels), back: true, resolve });
    call.write({ attach: { sessionIds, channels, branches } });
  }

  // All sessions are where they were: what waits is sent, in the order of old.
  #ready(call) {
    this.#call = call;
    for (const attach of this.#attaches) {
      // One that was sent before may have opened them: attach them first, and see who is missing.
      this.#sendAttach(attach, attach.open && !attach.again);
    }
    for (const { message, waiting } of this.#frames.values()) {
      if (waiting.size) this.#write({ frame: message });
    }
    this.#tellBlocked(false);
  }

  async #broken(error) {
    this.#call = null;
    if (this.#closed) return this.#wake();
    if (!this.#failures++) this.#lastBreak = Date.now();
    const tired = Date.now() - this.#lastBreak > this.#patienceS * 1000;
    if (!error.retryable || tired) return this.#fail(error);
    this.#attaches = this.#attaches.filter(({ back }) => !back);
    for (const attach of this.#attaches) attach.again = attach.sent;
    await sleep(pauseAfter(this.#failures, error) * 1000);
    this.#connect();
  }

  #fail(error) {
    this.#error = error;
    for (const { reject } of [...this.#frames.values(), ...this.#attaches]) reject(error);
    this.#frames.clear();
    this.#attaches = [];
    this.#wake();
  }

  #write(message) {
    if (!this.#call.write(message)) this.#tellBlocked(true);
  }

  #sendAttach(attach, open) {
    attach.sent = true;
    this.#writeAttach(attach, [...attach.waiting], open);
  }

  #writeAttach(attach, channels, open) {
    const sessionIds = channels.map((channel) => attach.sessions.get(channel));
    this.#write({ attach: { sessionIds, channels, open, ...(open ? attach.opening : {}) } });
  }

  #tellBlocked(blocked) {
    this.#blocked = blocked;
    if (!blocked) this.#wake();
  }

  #wake() {
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  // ---- answers ----

  #receive(call, { message: kind, started, attached, reply }) {
    if (kind === 'started') return this.#started(call);
    this.#failures = 0;
    if (kind === 'attached') this.#attached(attached);
    if (kind === 'reply') this.#replied(reply);
  }

  #attached({ channels, positions, branches, errors }) {
    for (const [row, channel] of channels.entries()) {
      const attach = this.#attaches.find(({ waiting }) => waiting.has(channel));
      const [position, branch] = [Number(positions[row]), branches[row]];
      this.#channels.set(channel, { id: attach.sessions.get(channel), position, branch });
      this.#settle(attach, channel);
    }
    for (const row of errors) {
      const attach = this.#attaches.find(({ waiting }) => waiting.has(row.channel));
      const error = CellarError.ofRow(row);
      if (attach.open && attach.again && error.code === grpc.status.NOT_FOUND) {
        this.#writeAttach(attach, [row.channel], true); // the first try had not opened it
        continue;
      }
      attach.error ??= error;
      if (attach.back) this.#lost(row.channel, error);
      this.#settle(attach, row.channel);
    }
  }

  #settle(attach, channel) {
    attach.waiting.delete(channel);
    if (attach.waiting.size) return;
    this.#attaches.splice(this.#attaches.indexOf(attach), 1);
    if (attach.error && !attach.back) attach.reject(attach.error);
    else attach.resolve([...attach.sessions.keys()]);
    this.#wake();
  }

  // A session that is not where it was: another client has reset or closed it, say.
  #lost(channel, error) {
    this.#channels.delete(channel);
    for (const frame of this.#frames.values()) {
      if (frame.waiting.has(channel)) this.#answer(frame, channel, { error });
    }
  }

  #replied(reply) {
    const frame = this.#frames.get(Number(reply.frame)); // rule 3
    for (const { channel, ...row } of rowsOf(reply)) {
      this.#channels.get(channel).position = row.position;
      this.#answer(frame, channel, row);
    }
    for (const row of reply.errors) {
      this.#answer(frame, row.channel, { error: CellarError.ofRow(row) });
    }
  }

  #answer(frame, channel, row) {
    frame.rows.set(channel, row);
    frame.waiting.delete(channel);
    if (frame.waiting.size) return;
    this.#frames.delete(frame.message.number);
    frame.resolve(frame.rows);
    this.#wake();
  }
}

// The rows of a reply. Its columns hold the predictions of all channels, one after the other: n in
// all, so that a column's width (k, levels, vocabulary) is its length by n.
export function* rowsOf({ channels, positions, counts, predictions, replayed }) {
  const perRow = counts.length ? counts : channels.map(() => 1);
  const n = perRow.reduce((sum, count) => sum + count, 0);
  const columns = Object.entries(predictions ?? {}).filter(([, column]) => column.length);
  let done = 0;
  for (const [row, channel] of channels.entries()) {
    const own = {};
    for (const [name, column] of columns) {
      const width = column.length / n;
      own[name] = column.slice(done * width, (done + perRow[row]) * width);
    }
    done += perRow[row];
    const position = Number(positions[row]);
    yield { channel, position, replayed: replayed.includes(channel), predictions: own };
  }
}
