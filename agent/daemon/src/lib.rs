//! The agent `wattled`: wiring of the cores to the kernel, the disk, the operator and the coordinator.
//!
//! Decisions live in the cores (`wattle-worker`, `wattle-routing`); this crate owns threads, tasks, channels and files.

pub mod config;
pub mod coordinator;
mod crew;
mod data_thread;
mod engine;
mod exchange;
mod health;
mod kernel;
mod local_api;
mod metrics;
mod notify;
mod offloads;
mod ping;
pub mod policy;
mod query;
mod quic;
mod seat;
pub mod startup;
pub mod state;
mod threads;
mod worker_handle;
pub mod workers;
