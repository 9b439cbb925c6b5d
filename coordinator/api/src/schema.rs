//! JSON Schemas of values that other documents hold: a type that `docs/schemas` has a file for is named, not told again.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::notice::Alert;
use crate::rest::Node;
use crate::topology::{
    Cause, Entity, EntityKey, EntityKind, LinkEntity, NodeEntity, Op, PrefixEntity, TopologyEvent,
};

macro_rules! published {
    ($($type:ident $urn:literal,)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "$ref": concat!("urn:wattle:schema:", $urn) })
            }
        }
    )*};
}

published! {
    Alert "alert:v1",
    Node "rest-node:v1",
    TopologyEvent "topology-event:v1",
    Cause "topology-event:v1#/properties/cause",
    EntityKey "topology-event:v1#/properties/key",
    EntityKind "topology-event:v1#/properties/kind",
    Op "topology-event:v1#/properties/op",
    Entity "topology-state:v1",
    LinkEntity "topology-state:v1#/$defs/link",
    NodeEntity "topology-state:v1#/$defs/node",
    PrefixEntity "topology-state:v1#/$defs/prefix",
}
