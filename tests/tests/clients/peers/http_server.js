// An HTTP server. Usage: node http_server.js PORT
const http = require("http");

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://x");
  if (url.pathname === "/echo") {
    response.writeHead(200, { "x-method": request.method });
    request.pipe(response);
  } else if (url.pathname === "/bytes") {
    const body = Buffer.alloc(Number(url.searchParams.get("n")), "b");
    response.writeHead(200, { "content-length": body.length });
    response.end(request.method === "HEAD" ? undefined : body);
  } else if (url.pathname === "/chunks") {
    for (let number = 0; number < 1000; number += 1) response.write(`${number}\n`);
    response.end();
  } else if (url.pathname === "/empty") {
    response.writeHead(204).end();
  } else if (url.pathname === "/close") {
    response.writeHead(200, { connection: "close" });
    response.end("bye");
  } else {
    response.writeHead(404).end("nothing here");
  }
});
server.listen(Number(process.argv[2]), "127.0.0.1");
