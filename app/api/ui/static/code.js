// One request as a command or a program. It reads the key, where one is needed, from the variable QUARTET_KEY.

const pretty = (body) => JSON.stringify(body, null, 2);

const python = (value, indent = "") => {
  const deeper = `${indent}    `;
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((one) => `${deeper}${python(one, deeper)},\n`).join("")}${indent}]`;
  }
  if (value !== null && typeof value === "object") {
    const items = Object.entries(value).map(([name, one]) => `${deeper}${JSON.stringify(name)}: ${python(one, deeper)},\n`);
    return items.length ? `{\n${items.join("")}${indent}}` : "{}";
  }
  return { true: "True", false: "False", null: "None" }[JSON.stringify(value)] ?? JSON.stringify(value);
};

const curl = (url, body, hasKey) => [
  `curl ${body.stream ? "-N " : ""}'${url}'`,
  "-H 'Content-Type: application/json'",
  ...(hasKey ? ['-H "Authorization: Bearer $QUARTET_KEY"'] : []),
  `-d '${pretty(body).replaceAll("'", "'\\''")}'`,
].join(" \\\n  ");

const requests = (url, body, hasKey) => {
  const parts = [JSON.stringify(url), `json=${python(body, "    ")}`];
  if (hasKey) parts.push('headers={"Authorization": "Bearer " + os.environ["QUARTET_KEY"]}');
  if (body.stream) parts.push("stream=True");
  const imports = [...(body.stream ? ["import json"] : []), ...(hasKey ? ["import os"] : [])];
  const call = `requests.post(\n${parts.map((part) => `    ${part},\n`).join("")})`;
  const told = body.stream
    ? ["response.raise_for_status()", "for line in response.iter_lines():", '    if line.startswith(b"data: {"):',
      "        print(json.loads(line[6:]))"]
    : ["response.raise_for_status()", "print(response.json())"];
  return [...imports, ...(imports.length ? [""] : []), "import requests", "", `response = ${call}`, ...told].join("\n");
};

const javascript = (url, body, hasKey) => {
  const header = hasKey ? "\n    Authorization: `Bearer ${process.env.QUARTET_KEY}`," : "";
  const told = body.stream
    ? "for await (const part of response.body.pipeThrough(new TextDecoderStream())) console.log(part);"
    : "console.log(await response.json());";
  return `const response = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: {
    "Content-Type": "application/json",${header}
  },
  body: JSON.stringify(${pretty(body).replaceAll("\n", "\n  ")}),
});
${told}`;
};

export const LANGUAGES = { curl: curl, Python: requests, JavaScript: javascript };
