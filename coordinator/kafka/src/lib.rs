//! A Kafka cluster as desired state: the document that says what it should be like, the files that make servers into
//! such a cluster ([`render`]), and the way from what a cluster has to what it should have: [`Admin::observe`],
//! [`Plan::between`], [`apply`].
//!
//! Speaks Kafka's protocol itself, since librdkafka's Rust binding changes settings only by replacing them all, and
//! knows neither rights nor users. `document`, `wanted`, `plan` and what they are made of ask nobody; sockets are in
//! `connection`.

pub mod acl;
mod admin;
mod apply;
mod changes;
mod connection;
pub mod document;
mod error;
pub mod item;
mod moves;
pub mod observed;
mod placement;
pub mod plan;
mod questions;
pub mod render;
mod scram;
mod secrets;
pub mod wanted;

pub use crate::admin::Admin;
pub use crate::apply::{Outcome, Report, apply, settle};
pub use crate::error::ClusterError;
pub use crate::plan::Plan;
pub use crate::secrets::HostSecrets;
pub use crate::wanted::Wanted;
