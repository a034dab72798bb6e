// Parses an AsyncAPI document with the ecosystem's own parser and prints what it has to say, as JSON:
// {"version", "messages": [ids], "operations": [ids], "diagnostics": [{"severity", "code", "path", "message"}]}
//
//   node judge.cjs NODE_MODULES DOCUMENT
'use strict';

const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const [modules, path] = process.argv.slice(2);
const { Parser } = require(join(modules, '@asyncapi/parser'));

async function main() {
  const { document, diagnostics } = await new Parser().parse(readFileSync(path, 'utf8'));
  const answer = {
    version: document?.version() ?? null,
    messages: document?.allMessages().all().map((message) => message.id()) ?? [],
    operations: document?.allOperations().all().map((operation) => operation.id()) ?? [],
    diagnostics: diagnostics.map(({ severity, code, path, message }) => ({
      severity: ['error', 'warning', 'information', 'hint'][severity],
      code: String(code),
      path: path.join('/'),
      message,
    })),
  };
  process.stdout.write(JSON.stringify(answer));
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
