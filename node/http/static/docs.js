// Shows /openapi.json as a page. Text only ever becomes text nodes, so no description can become markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const DEPTH_MAX = 4; // schemas inside schemas, before only the name is shown

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function sketch(schema, schemas, depth = 0) {
  if (!schema) return null;
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return depth >= DEPTH_MAX ? `<${name}>` : sketch(schemas[name], schemas, depth + 1);
  }
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return sketch(choices.find((one) => one.type !== "null") || choices[0], schemas, depth);
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "object" || schema.properties) {
    return Object.fromEntries(
      Object.entries(schema.properties || {}).map(([name, part]) => [name, sketch(part, schemas, depth + 1)]));
  }
  if (schema.type === "array") return [sketch(schema.items || {}, schemas, depth + 1)];
  const bounds = ["minLength", "maxLength", "minimum", "maximum", "pattern", "format"]
    .filter((bound) => bound in schema).map((bound) => `${bound} ${schema[bound]}`);
  return [schema.type || "any", ...bounds].join(", ");
}

function content(title, media, schemas) {
  const parts = [element("h3", {}, title)];
  for (const [type, { schema }] of Object.entries(media || {})) {
    parts.push(element("code", {}, type), element("pre", {}, JSON.stringify(sketch(schema, schemas), null, 2)));
  }
  return parts;
}

function show(method, path, operation, schemas) {
  const inside = element("div");
  const parameters = operation.parameters || [];
  if (parameters.length) {
    inside.append(element("h3", {}, "Parameters"), element("table", {}, ...parameters.map((parameter) =>
      element("tr", {}, element("td", {}, element("code", {}, parameter.name)), element("td", {}, parameter.in),
        element("td", {}, String(sketch(parameter.schema, schemas)))))));
  }
  if (operation.requestBody) inside.append(...content("Body", operation.requestBody.content, schemas));
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (status < 300) inside.append(...content(`Answer ${status}`, answer.content, schemas));
  }
  const refusals = Object.entries(operation.responses).filter(([status]) => status >= 300);
  inside.append(element("h3", {}, "Problems"), element("table", {}, ...refusals.map(([status, answer]) =>
    element("tr", {}, element("td", {}, status), element("td", {}, answer.description.replaceAll("`", ""))))));
  const lock = operation.security ? element("span", { className: "lock" }, "signed in") : "";
  return element("details", { id: operation.operationId }, element("summary", {},
    element("span", { className: "method" }, method.toUpperCase()), element("span", { className: "path" }, path),
    element("span", {}, operation.summary || ""), lock), inside);
}

async function start() {
  const root = document.getElementById("routes");
  const api = await (await fetch("/openapi.json")).json();
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((one) => one in item)) {
      const tag = (item[method].tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, element("section", {}, element("h2", {}, tag)));
      groups.get(tag).append(show(method, path, item[method], api.components.schemas));
    }
  }
  root.replaceChildren(...groups.values());
  document.getElementById("problems").append(...api["x-problems"].map((problem) =>
    element("tr", { id: `problem-${problem.code}` }, element("td", {}, String(problem.status)),
      element("td", {}, element("code", {}, problem.code)), element("td", {}, problem.title))));
  document.getElementById("search").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const route of root.querySelectorAll("details")) {
      route.hidden = !route.textContent.toLowerCase().includes(wanted);
    }
  });
  if (location.hash) location.replace(location.hash);
}

start().catch((error) => document.getElementById("routes").replaceChildren(String(error)));
