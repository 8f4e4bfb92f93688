// How a client comes to its server: TLS, a certificate of its own, a token.
import { readFileSync } from 'node:fs';
import grpc from '@grpc/grpc-js';

const LOOPBACK = /^(unix:|localhost(:\d+)?$|127\.\d+\.\d+\.\d+(:\d+)?$|\[::1\](:\d+)?$)/;

const TOKEN = /^[\w.~+/=-]+$/;

// Whether an address can only be this machine.
export const isLocal = (address) => LOOPBACK.test(address);

// What gRPC is given: {credentials, interceptors}.
//   tls        speaks TLS; with ca, cert and key it is spoken as well
//   ca         a PEM file of the authorities to trust instead of Node's own
//   cert, key  PEM files of a certificate to show, where the server wants one
//   token      says who calls: text, or a function that is asked at every call
// A token leaves the machine under TLS alone, unless allowPlaintextToken says otherwise.
export function access(address, { tls, ca, cert, key, token, allowPlaintextToken } = {}) {
  if (!cert !== !key) throw new Error('a client shows both, cert and key: name the other one too');
  const secure = Boolean(tls || ca || cert);
  if (token && !secure && !isLocal(address) && !allowPlaintextToken) {
    throw new Error('token: others can read it on the way to another machine: use TLS (tls, ca)');
  }
  const read = (file) => (file ? readFileSync(file) : null);
  return {
    credentials: secure
      ? grpc.credentials.createSsl(read(ca), read(key), read(cert))
      : grpc.credentials.createInsecure(),
    interceptors: token ? [bearing(token)] : [],
  };
}

// Puts the token into the metadata of every call. (gRPC's own call credentials refuse to do so on
// connections without TLS, those to this machine among them.) It is looked at here, as what gRPC says
// of one that cannot be sent shows it.
function bearing(token) {
  return (options, nextCall) =>
    new grpc.InterceptingCall(nextCall(options), {
      start(metadata, listener, next) {
        const now = typeof token === 'function' ? token() : token;
        if (!TOKEN.test(now)) throw new Error('token: it has a character, such as a line break, that no token has');
        metadata.set('authorization', `Bearer ${now}`);
        next(metadata, listener);
      },
    });
}
