//! What the verbs answer with `--json`: the name of each answer, bound to the type of its data, so that no envelope
//! names a schema that is not its own. The schemas are published as `docs/schemas/cli-NAME.v1.schema.json`, which the
//! tests below hold to the types.

use std::marker::PhantomData;

use wattle_api::notice::Alert;
use wattle_api::rest::{Node, TokenCreated, TokenRequest};
use wattle_api::token::TokenRecord;
use wattle_api::topology::TopologyEvent;
use wattle_control::{
    EventReport, ExplainReport, LinksReport, MetricsReport, PathReport, PeersReport, PingReport,
    RoutesReport, StatusReport, TopoReport, WhoamiReport,
};
use wattle_kafka::{Plan, Report};
use wattle_topology::{DiffDocument, GraphDocument, Stats, Verification};

use super::{
    drain, init, join, kafka, leave, leaves, network, nodes, ping, prefer, routes, tokens,
    topology, trace, version,
};
use crate::failure::Failure;

/// The name of an answer, which goes with the type of its data.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    name: &'static str,
    data: PhantomData<fn() -> T>,
}

impl<T> Answer<T> {
    const fn named(name: &'static str) -> Self {
        let data = PhantomData;
        Self { name, data }
    }

    /// Name and version of its schema.
    pub(crate) fn schema(self) -> String {
        format!("wattle.{}/v1", self.name)
    }
}

macro_rules! answers {
    ($($constant:ident $name:literal $data:ty,)*) => {
        $(pub(crate) const $constant: Answer<$data> = Answer::named($name);)*

        /// The published schema of each.
        #[cfg(test)]
        fn all() -> Vec<tests::Published> {
            vec![$(tests::Published::of($constant)),*]
        }
    };
}

answers! {
    ALERTS "alerts" Vec<Alert>,
    DRAIN "drain" drain::Drained,
    ERROR "error" Failure,
    EVENT "event" EventReport,
    EXPLAIN "explain" ExplainReport,
    INIT "init" init::Initialised,
    JOIN "join" join::Membership,
    JOIN_DRY_RUN "join_dry_run" join::Intended,
    KAFKA_APPLY "kafka_apply" Vec<Report>,
    KAFKA_PLAN "kafka_plan" Plan,
    KAFKA_RENDER "kafka_render" Vec<kafka::Written>,
    LEAF "leaf" leaves::Attached,
    LEAVE "leave" leave::Left,
    LINKS "links" LinksReport,
    METRICS "metrics" MetricsReport,
    NETWORK "network" network::Created,
    NODES "nodes" Vec<Node>,
    NODE_REMOVED "node_removed" nodes::Removed,
    PATH "path" PathReport,
    PEERS "peers" PeersReport,
    PING "ping" PingReport,
    PING_SUMMARY "ping_summary" ping::Summary,
    PREFER "prefer" prefer::Preferred,
    ROUTES "routes" RoutesReport,
    ROUTES_DIFF "routes_diff" Vec<routes::Difference>,
    STATUS "status" StatusReport,
    TOKEN "token" TokenCreated,
    TOKENS "tokens" Vec<TokenRecord>,
    TOKEN_DRY_RUN "token_dry_run" TokenRequest,
    TOKEN_REVOKED "token_revoked" tokens::Revoked,
    TOPO "topo" TopoReport,
    TOPOLOGY "topology" GraphDocument<'static>,
    TOPOLOGY_DIFF "topology_diff" DiffDocument<'static>,
    TOPOLOGY_ENTITY "topology_entity" topology::Told<'static>,
    TOPOLOGY_EVENT "topology_event" TopologyEvent,
    TOPOLOGY_MARK "topology_mark" topology::Mark,
    TOPOLOGY_PATH "topology_path" topology::Way,
    TOPOLOGY_STATS "topology_stats" Stats,
    TOPOLOGY_VERIFICATION "topology_verification" Verification,
    TRACE "trace" trace::Trace,
    UNDRAIN "undrain" drain::Drained,
    VERSION "version" version::Versions,
    WHOAMI "whoami" WhoamiReport,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use schemars::generate::SchemaSettings;
    use schemars::transform::RecursiveTransform;
    use schemars::{JsonSchema, Schema};
    use serde_json::{Value, json};

    use super::{Answer, all};
    use crate::output::Envelope;

    /// Set to have the files written instead of compared.
    const WRITE: &str = "WATTLE_WRITE_SCHEMAS";

    const PROMISE: &str =
        "Version 1 only ever gains optional fields; readers ignore the ones they do not know.";

    #[test]
    fn the_published_schemas_are_those_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
        let answers = all().into_iter();
        let of_types: BTreeMap<PathBuf, String> = answers
            .map(|answer| (folder.join(answer.file), answer.text))
            .collect();
        assert_eq!(of_types.len(), all().len(), "two answers have one name");
        if std::env::var_os(WRITE).is_some() {
            for (path, text) in &of_types {
                std::fs::write(path, text).unwrap();
            }
        }
        let found = published(&folder);
        let differing: Vec<_> = of_types
            .keys()
            .chain(found.keys())
            .filter(|path| of_types.get(*path) != found.get(*path))
            .collect();
        assert!(
            differing.is_empty(),
            "not what the types say: {differing:#?}\nto write them: {WRITE}=1 cargo test -p wattle-cli published"
        );
    }

    /// The files there are for the command line.
    fn published(folder: &Path) -> BTreeMap<PathBuf, String> {
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
        files
            .filter(|file| file.file_name().as_encoded_bytes().starts_with(b"cli-"))
            .map(|file| (file.path(), std::fs::read_to_string(file.path()).unwrap()))
            .collect()
    }

    /// A file with the schema of an answer.
    pub(super) struct Published {
        file: String,
        text: String,
    }

    impl Published {
        pub(super) fn of<T: JsonSchema>(answer: Answer<T>) -> Self {
            let name = answer.name;
            let dashed = name.replace('_', "-");
            let mut schema = envelope::<T>().to_value();
            schema["$id"] = format!("urn:wattle:schema:cli-{dashed}:v1").into();
            schema["title"] = format!("Wattle command line: {name}, version 1").into();
            let what = schema["description"].as_str().unwrap();
            schema["description"] = format!("{what} {PROMISE}").into();
            schema["properties"]["schema"]["const"] = answer.schema().into();
            Self {
                file: format!("cli-{dashed}.v1.schema.json"),
                text: serde_json::to_string_pretty(&schema).unwrap() + "\n",
            }
        }
    }

    fn envelope<T: JsonSchema>() -> Schema {
        SchemaSettings::draft2020_12()
            .for_serialize()
            .with_transform(RecursiveTransform(keep_promise))
            .into_generator()
            .into_root_schema_for::<Envelope<'_, T>>()
    }

    /// A field with a default may be absent, as it came later than the others; fields that a reader does not know may be
    /// there.
    fn keep_promise(schema: &mut Schema) {
        let Some(schema) = schema.as_object_mut() else {
            return;
        };
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        let mut optional = Vec::new();
        for (name, property) in properties.into_iter().flatten() {
            let property = property.as_object_mut();
            if property.is_some_and(|property| property.remove("default").is_some()) {
                optional.push(name.clone());
            }
        }
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| !optional.iter().any(|optional| name == optional));
        }
        schema.retain(|key, value| match key.as_str() {
            "additionalProperties" | "unevaluatedProperties" => *value != json!(false),
            // Formats of Rust's numbers and addresses are no others' words.
            "format" => value == "date-time",
            _ => true,
        });
    }
}
