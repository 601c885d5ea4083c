//! The API's description (OpenAPI 3.1), made of the operations themselves.

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    api::{LINES, path},
    news::Event,
};
use crate::{
    failure::Failure,
    operations::{self, Operation, Visit},
};

/// The whole document.
pub(crate) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut paths = Paths { paths: Map::new(), generator: settings.into_generator() };
    operations::visit(&mut paths);
    let event = paths.generator.subschema_for::<Event>();
    paths.paths.insert(
        "/v1/events".to_owned(),
        json!({ "get": {
            "operationId": "events",
            "summary": "What happens on the host from now on, a line of JSON each",
            "responses": { "200": { "description": "One after the other", "content": { LINES: { "schema": event } } } },
        } }),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Viaduct",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The daemon's API: HTTP on the Unix socket /run/viaduct/api.sock. Root may do everything, \
                            members of the group viaduct may look. With `Accept: application/x-ndjson`, an operation \
                            answers in lines of JSON: {\"progress\": [done, total]} and {\"waiting\": why} meanwhile, \
                            {\"report\": …} or {\"failure\": …} as the last one.",
        },
        "paths": paths.paths,
        "components": { "schemas": paths.generator.take_definitions(true) },
    })
}

struct Paths {
    paths: Map<String, Value>,
    generator: SchemaGenerator,
}

impl Visit for Paths {
    fn visit<O: Operation>(&mut self) {
        let request = self.generator.root_schema_for::<O>();
        let schema = self.generator.subschema_for::<O>();
        let report = self.generator.subschema_for::<O::Report>();
        let failure = self.generator.subschema_for::<Failure>();
        let common = json!({
            "summary": summary(&request),
            "responses": {
                "200": { "description": "Done", "content": { "application/json": { "schema": report } } },
                "default": { "description": "Not done", "content": { "application/json": { "schema": failure } } },
            },
        });
        let mut post = common.clone();
        post["operationId"] = O::NAME.into();
        post["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
        let mut ways = json!({ "post": post });
        if O::QUERY {
            let mut get = common;
            get["operationId"] = format!("get-{}", O::NAME).into();
            get["parameters"] = parameters(&request);
            ways["get"] = get;
        }
        self.paths.insert(path::<O>(), ways);
    }
}

/// What an operation is said to do where it is written.
fn summary(schema: &Schema) -> Value {
    schema.get("description").cloned().unwrap_or_default()
}

/// The fields of an operation as parameters of a query.
fn parameters(schema: &Schema) -> Value {
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    let parameter = |(name, schema): (&String, &Value)| {
        let needed = required.is_some_and(|names| names.iter().any(|n| n.as_str() == Some(name)));
        json!({ "name": name, "in": "query", "required": needed, "schema": schema })
    };
    properties.map(|fields| fields.iter().map(parameter).collect()).unwrap_or_else(|| json!([]))
}
