// A real OpenID provider on a free port of this machine, for tests: tokens for programs (client credentials), and new keys on demand.
//
// It prints `listening on URL`. POST /token gives tokens as OAuth 2.0 says; POST /rotate makes new keys, which sign from then on,
// and withdraws the old ones when asked for /rotate?withdraw=1. All of this is for tests: every client has the secret `secret`.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const AUDIENCE = 'api://orders';
const SCOPE = 'orders.submit orders.read';
// Who asks, how his tokens are signed, and what roles stand in them.
const CLIENTS = {
  shop: { alg: 'RS256' },
  'shop-ps': { alg: 'PS256' },
  'shop-es': { alg: 'ES256' },
  operator: { alg: 'RS256', roles: ['orders.operator'] },
};

function newKeys() {
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  return [rsa, ec].map((key) => ({ ...key.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig' }));
}

function provider(issuer, keys) {
  return new Provider(issuer, {
    jwks: { keys },
    clients: Object.keys(CLIENTS).map((client_id) => ({
      client_id,
      client_secret: 'secret',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    })),
    scopes: SCOPE.split(' '),
    extraTokenClaims: (_ctx, token) => ({ roles: CLIENTS[token.clientId].roles }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_ctx, resource, client) => ({
          audience: resource,
          scope: SCOPE,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 300,
          jwt: { sign: { alg: CLIENTS[client.clientId].alg } },
        }),
        defaultResource: () => AUDIENCE,
      },
    },
  });
}

let keys = newKeys();
let serve;
const server = createServer((request, response) => {
  const url = new URL(request.url, issuer);
  if (request.method !== 'POST' || url.pathname !== '/rotate') {
    serve(request, response);
    return;
  }
  keys = url.searchParams.has('withdraw') ? newKeys() : [...newKeys(), ...keys];
  serve = provider(issuer, keys).callback();
  response.writeHead(204).end();
});
let issuer;
server.listen(0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  serve = provider(issuer, keys).callback();
  console.log(`listening on ${issuer}`);
});
