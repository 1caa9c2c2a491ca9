// The OpenAPI document as a page: one section an operation, its bodies as JSON with the kinds of their fields.

const make = (tag, text, ...children) => {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
};

/** A schema as something to look at: objects by field, everything else by its kind. */
const shape = (schema, all, depth = 0) => {
  if (!schema) return null;
  if (schema.$ref) return depth > 4 ? "…" : shape(all[schema.$ref.split("/").pop()], all, depth + 1);
  if (schema.anyOf) return schema.anyOf.map((one) => shape(one, all, depth + 1)).reduce((a, b) => typeof a === "string" && typeof b === "string" ? `${a} | ${b}` : b === "null" ? a : b);
  if (schema.type === "array") return [shape(schema.items ?? schema.prefixItems?.[0] ?? {}, all, depth + 1)];
  if (schema.properties) return Object.fromEntries(Object.entries(schema.properties).map(([key, value]) => [key + (schema.required?.includes(key) ? "" : "?"), shape(value, all, depth + 1)]));
  if (schema.enum) return schema.enum.join(" | ");
  return schema.const ?? schema.type ?? "any";
};

const body = (title, schema, all) => {
  const text = JSON.stringify(shape(schema, all), null, 2);
  return make("details", "", make("summary", title), make("pre", text));
};

const operation = (path, method, told, all) => {
  const section = make("section", "", make("h2", `${method.toUpperCase()} ${path}`), make("p", told.description ?? told.summary ?? ""));
  for (const one of told.parameters ?? []) section.append(make("p", `${one.name} (${one.in}${one.required ? ", required" : ""})`));
  const sent = told.requestBody?.content?.["application/json"]?.schema;
  if (sent) section.append(body("request", sent, all));
  const got = told.responses?.["200"]?.content?.["application/json"]?.schema;
  if (got && Object.keys(got).length) section.append(body("reply", got, all));
  const errors = Object.entries(told.responses ?? {}).filter(([status]) => status >= "400").map(([status, e]) => `${status} ${e.description}`);
  if (errors.length) section.append(make("details", "", make("summary", "errors"), make("p", errors.join("; "))));
  return section;
};

const place = document.getElementById("operations");
try {
  const reply = await fetch("openapi.json");
  const { paths, components } = await reply.json();
  const found = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, told]) => operation(path, method, told, components.schemas)));
  place.replaceChildren(...found);
} catch (error) {
  place.replaceChildren(make("p", `openapi.json cannot be read: ${error.message}`));
}
