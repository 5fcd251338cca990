// Node: node app.js ADDRESS PORT [TLS-VERSION CERTIFICATE]
// As in nodejs.org's "Anatomy of an HTTP Transaction".
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');

const [address, port, version, certificate] = process.argv.slice(2);
const late = Number(process.env.LATE) * 1000;
const handled = fs.openSync(process.env.HANDLED, 'a');

function numberOf(body) {
  const digits = body.subarray(0, 10).toString('latin1');
  return /^\d{10}$/.test(digits) ? Number(digits) : -1;
}

function finish(number, body, response) {
  const hash = crypto.createHash('sha256').update(body).digest('hex');
  fs.writeSync(handled, `${number} ${body.length} ${hash}\n`);
  response.statusCode = 200;
  response.end('ok');
}

function handle(request, response) {
  const chunks = [];
  request
    .on('error', (error) => console.error(`${request.method} ${request.url}: ${error.message} (${error.code})`))
    .on('data', (chunk) => chunks.push(chunk))
    .on('end', () => {
      const body = Buffer.concat(chunks);
      const number = numberOf(body);
      if (number > 0 && number % 2 === 1) setTimeout(finish, late, number, body, response);
      else finish(number, body, response);
    });
}

let server;
if (version) {
  const pem = fs.readFileSync(certificate);
  const only = `TLSv${version}`;
  server = https.createServer({ key: pem, cert: pem, minVersion: only, maxVersion: only }, handle);
  server.on('tlsClientError', (error) => console.error(`TLS handshake: ${error.message} (${error.code})`));
} else {
  server = http.createServer(handle);
}
server.listen(Number(port), address);
