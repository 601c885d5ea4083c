use serde_json::Value as Json;

use crate::{raw::Root, shape::Read};

/// The JSON Schema (draft 2020-12) of a whole configuration: editors complete and check with it. It says what keys
/// and forms of values there are; what they mean together, only [`load`](crate::load) knows.
pub fn schema() -> Json {
    let mut schema = Root::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Viaduct".into();
    schema
}
