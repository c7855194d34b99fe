// The page at /docs: every request that openapi.json describes, with its parameters and answers.

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const EXAMPLES = {
  "post /predict": (url) => `curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' ${url}/predict\ncurl -F file=@cat.jpg -F file=@dog.jpg ${url}/predict`,
};

function table(where, head, lines) {
  const row = (cells, kind) => element("tr", {}, ...cells.map((text) => element(kind, { textContent: text })));
  const made = element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...lines.map((line) => row(line, "td"))));
  return element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${head[0]} of ${where}` }, made);
}

function described(path, method, about) {
  const parts = [element("h2", {}, element("code", { textContent: `${method.toUpperCase()} ${path}` }))];
  if (about.description) parts.push(element("p", { textContent: about.description }));
  const example = EXAMPLES[`${method} ${path}`]?.(location.origin) ?? (method === "get" && !path.includes("{") && `curl ${location.origin}${path}`);
  if (example) parts.push(element("pre", { tabIndex: 0 }, element("code", { textContent: example })));
  const parameters = (about.parameters ?? []).map((one) => [one.name, one.in, String(one.schema?.default ?? (one.required ? "required" : "")), one.description ?? ""]);
  if (parameters.length) parts.push(table(`${method} ${path}`, ["Parameter", "In", "Default", "What"], parameters));
  const types = Object.keys(about.requestBody?.content ?? {});
  if (types.length) parts.push(element("p", { textContent: `Body: ${types.join(" or ")}` }));
  parts.push(table(`${method} ${path}`, ["Status", "What"], Object.entries(about.responses).map(([status, one]) => [status, one.description])));
  return element("article", {}, ...parts);
}

const { paths } = await (await fetch("/openapi.json")).json();
const all = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, about]) => described(path, method, about)));
document.getElementById("paths").append(...all);
