// Connect to a Cellar server, call it, and read what went wrong.
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import { access, isLocal } from './access.js';

// Where this project's proto/ lies: say so if you copy these files.
const PROTO = fileURLToPath(new URL('../../proto', import.meta.url));
const LOADED = protoLoader.loadSync(['cellar/v1/session.proto', 'cellar/v1/model.proto'], {
  includeDirs: [PROTO],
  longs: String, // a branch has 64 bits, a number 53: as a number it would be another branch
  enums: String,
  arrays: true, // a column that was not asked for is [], not undefined
  defaults: true,
  oneofs: true, // which of several fields is set, by the name of the choice
});
const { cellar } = grpc.loadPackageDefinition(LOADED);

// Clients of both services on one connection: {sessions, models, close}. What the server wants to see,
// such as {ca, token}, is explained in access.js.
export function connect(address, shown = {}) {
  const { credentials, interceptors } = access(address, shown);
  const options = {
    interceptors,
    'grpc.max_receive_message_length': 16 * 2 ** 20, // the server's own limit; gRPC's is 4 MiB
    'grpc.keepalive_time_ms': 10_000, // finds out about a server that has vanished
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.enable_http_proxy': isLocal(address) ? 0 : 1, // no proxy leads to this machine
  };
  const sessions = new cellar.v1.SessionService(address, credentials, options);
  const models = new cellar.v1.ModelService(address, credentials, {
    ...options,
    channelOverride: sessions.getChannel(),
  });
  return { sessions, models, close: () => sessions.close() };
}

// Calls a unary method, once.
export function call(client, method, request, { timeoutS = 30 } = {}) {
  return new Promise((resolve, reject) => {
    client[method](request, { deadline: Date.now() + timeoutS * 1000 }, (error, response) =>
      error ? reject(new CellarError(error)) : resolve(response),
    );
  });
}

// Tries something until it succeeds, fails for good, or time is up. Safe for reads, and for steps
// that carry their position: the server applies such a step once, however often it comes.
// `onRetry` is told the errors that are tried again: a wrong address, or TLS on one side only, looks
// like a server that is not there yet.
export async function retrying(attempt, { timeoutS = 30, onRetry } = {}) {
  const giveUp = Date.now() + timeoutS * 1000;
  for (let failures = 1; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      const pauseS = pauseAfter(failures, error);
      if (!error.retryable || Date.now() + pauseS * 1000 > giveUp) throw error;
      onRetry?.(error);
      await sleep(pauseS * 1000);
    }
  }
}

// Seconds to wait after so many failures: twice as long each time, up to 2, at random from a half
// of it on, so that clients do not come back in step; and what the server asks for on top.
export function pauseAfter(failures, error) {
  const pauseS = Math.min(0.1 * 2 ** (failures - 1), 2);
  return (error?.retryAfterS ?? 0) + pauseS * (1 - Math.random() / 2);
}

// What a call, or one row of a stream, was refused with.
//   code         the gRPC status code, a number
//   reason       'BAD_INPUT', 'STALE_BRANCH', …: see docs/errors.md; '' where gRPC itself failed
//   facts        what it is about: field, row, position, branch, …; numbers as text
//   retryAfterS  when to try again, where that makes sense
//   violations   the fields that are bad, {field, description}
export class CellarError extends Error {
  constructor(serviceError) {
    super(serviceError.details ?? serviceError.message);
    this.name = 'CellarError';
    this.code = serviceError.code;
    this.reason = '';
    this.facts = {};
    this.violations = [];
    const [packed] = serviceError.metadata?.get('grpc-status-details-bin') ?? [];
    if (packed) this.#read(packed);
  }

  // Of a row of a stream, which has the same in fields of its own.
  static ofRow(row) {
    const error = new CellarError({ code: row.code, message: row.message });
    error.reason = row.reason;
    for (const [name, key] of [
      ['position', 'position'],
      ['branch', 'branch'],
      ['keptPosition', 'kept_position'],
    ]) {
      if (row[`_${name}`]) error.facts[key] = row[name]; // an optional field that was set
    }
    if (row.retryDelay) error.retryAfterS = seconds(row.retryDelay);
    return error;
  }

  // Whether the same again may succeed, after a pause.
  get retryable() {
    return this.retryAfterS !== undefined || this.code === grpc.status.UNAVAILABLE;
  }

  #read(packed) {
    for (const { typeUrl, value } of Status.decode(packed).details) {
      switch (typeUrl.split('/').pop()) {
        case 'google.rpc.ErrorInfo': {
          const { reason, domain, metadata } = ErrorInfo.decode(value);
          if (domain === 'cellar') Object.assign(this, { reason, facts: metadata });
          break;
        }
        case 'google.rpc.RetryInfo':
          this.retryAfterS = seconds(RetryInfo.decode(value).retryDelay);
          break;
        case 'google.rpc.BadRequest':
          this.violations = BadRequest.decode(value).fieldViolations;
          break;
      }
    }
  }
}

const seconds = (duration) => Number(duration.seconds) + duration.nanos / 1e9;

// Of google/rpc/status.proto and error_details.proto, what a Cellar server sends.
const rpc = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message RetryInfo { Duration retry_delay = 1; }
  message FieldViolation { string field = 1; string description = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }
`).root;
const Status = rpc.lookupType('Status');
const ErrorInfo = rpc.lookupType('ErrorInfo');
const RetryInfo = rpc.lookupType('RetryInfo');
const BadRequest = rpc.lookupType('BadRequest');
