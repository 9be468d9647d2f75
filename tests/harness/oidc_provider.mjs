// A provider of OpenID Connect (node-oidc-provider), as its argument says, on loopback: for tests alone.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { folder, issuer, port, clients, accounts, keys } = JSON.parse(process.argv[2]);
const { Provider } = await import(pathToFileURL(createRequire(`${folder}/`).resolve("oidc-provider")));

const provider = new Provider(issuer, {
  clients,
  jwks: { keys },
  cookies: { keys: ["of tests alone"] },
  scopes: ["openid", "email", "profile", "groups"],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
  findAccount: (_, id) => (accounts[id] ? { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) } : undefined),
  ttl: { AccessToken: 600, AuthorizationCode: 60, IdToken: 600, Interaction: 600, Session: 600, Grant: 600 },
});
createServer(provider.callback()).listen(port, "127.0.0.1", () => console.log("listening"));
